"""Tests of what commands show in a real terminal, and elsewhere."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import write_classes
from tests.processes import run_program
from tests.terminals import run_in_terminal
from trialrun.cli.terminal import find_width, format_duration

TRIALRUN = [sys.executable, "-m", "trialrun"]
QUICK = ["--model", "shufflenet_v2_x0_5", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture
def images(tmp_path: Path) -> str:
    """A set that one epoch takes a second for."""
    return str(write_classes(tmp_path / "colors", {"blue": 100, "green": 100, "red": 100}))


def train(images: str, *arguments: str) -> list[str]:
    """Return a command line of two epochs."""
    return [*TRIALRUN, "train", "--train-data", images, *QUICK, "--epochs", "2", *arguments]


@pytest.mark.slow
def test_terminal_shows_progress_table_and_summary(store: str, images: str) -> None:
    """The progress line vanishes; nothing is wider than the 80 columns."""
    shown = run_in_terminal(train(images, "--register-as", "colors"))
    assert shown.code == 0, shown.text
    progress = [line for line in shown.frames if "images/s  loss" in line]
    assert any(line.startswith("Epoch 1/2 ") and " left, run " in line for line in progress)
    assert max(map(len, shown.frames)) <= 80
    assert shown.has_colors
    lines = shown.screen
    assert not [line for line in lines if " left" in line]
    heading = next(line for line in lines if "train loss" in line)
    rows = [line for line in lines if line.startswith("Epoch ")]
    assert len(rows) == 2
    assert {row.index("  best") for row in rows if row.endswith("best")} <= {len(heading)}
    assert "Training finished: all 2 epochs are trained." in lines
    assert " trialrun evaluate models:/colors/1 DATA" in lines
    assert " trialrun ui" in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "has_progress"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)]
)
def test_terminal_without_colors(
    store: str, images: str, variables: dict[str, str], has_progress: bool
) -> None:
    """With NO_COLOR the line is still written again; a dumb terminal gets plain lines."""
    shown = run_in_terminal(train(images), variables=variables)
    assert shown.code == 0
    assert not shown.has_colors
    assert any("images/s  loss" in line for line in shown.frames) is has_progress
    assert len([line for line in shown.screen if line.startswith("Epoch ")]) == 2


@pytest.mark.slow
def test_quiet_terminal_shows_the_summary_only(store: str, images: str) -> None:
    """-q hides progress, table and what to do next."""
    lines = run_in_terminal(train(images, "-q")).screen
    assert lines[:2] == ["", "Training finished: all 2 epochs are trained."]
    assert not [line for line in lines if line.startswith(("Epoch", "Next", "Run"))]


@pytest.mark.slow
def test_log_file_has_one_plain_line_per_epoch(store: str, images: str) -> None:
    """Without a terminal there are no colors, no bars and no line that is written again."""
    done = run_program(train(images))
    assert done.returncode == 0
    assert "\x1b" not in done.stderr + done.stdout
    assert "\r" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("Epoch ")]) == 2
    assert "Training finished" in done.stdout
    assert all(len(line) <= 80 for line in (done.stderr + done.stdout).splitlines())


@pytest.mark.slow
def test_json_is_the_last_line_of_a_terminal(store: str, images: str) -> None:
    """It is not wrapped, so that it can be copied."""
    lines = [line for line in run_in_terminal(train(images, "--json")).screen if line]
    assert json.loads(lines[-1])["status"] == "FINISHED"


@pytest.mark.slow
def test_search_shows_trials_and_its_best_settings(store: str, images: str) -> None:
    """One line per trial below a heading; the progress line counts the trials."""
    command = [*TRIALRUN, "search", "--train-data", images, *QUICK, "--epochs", "1"]
    searched = ["--trials", "2", "--learning-rate", "1e-3:1e-1", "--workers", "1"]
    shown = run_in_terminal([*command, *searched])
    assert shown.code == 0, shown.text
    assert max(map(len, shown.frames)) <= 80
    assert any(line.startswith("Trials 1/2 ") and "epoch 1/1" in line for line in shown.frames)
    lines = shown.screen
    heading = next(line for line in lines if line.endswith("valid_loss  learning_rate"))
    rows = [line for line in lines if line.startswith("Trial ")]
    assert [row.split()[1] for row in rows] == ["0", "1"]
    assert all(len(row.removesuffix("  best")) == len(heading) for row in rows)
    assert rows[0].endswith("best")
    assert "Search finished (all trials are done): 2 complete." in lines
    assert any(line.startswith("    learning_rate ") for line in lines)


@pytest.mark.slow
def test_search_lists_many_settings_below_each_trial(store: str, images: str) -> None:
    """Columns of all of them would be wider than the terminal."""
    searched = ["--learning-rate", "1e-3:1e-1", "--weight-decay", "1e-5:1e-3"]
    searched += ["--label-smoothing", "0:0.2", "--optimizer", "sgd,adamw"]
    command = [*TRIALRUN, "search", "--train-data", images, *QUICK, "--epochs", "1"]
    shown = run_in_terminal([*command, *searched, "--trials", "1"])
    assert max(map(len, shown.frames)) <= 80
    place = next(n for n, line in enumerate(shown.screen) if line.startswith("Trial 0 "))
    assert shown.screen[place + 1].startswith("    learning_rate=")


def test_error_is_wrapped_in_a_terminal(tmp_path: Path) -> None:
    """Words are not broken; elsewhere the error has two lines."""
    command = [*TRIALRUN, "train", "--epochs", "0", "--patience", "0", "--batch-size", "0"]
    shown = run_in_terminal(command)
    assert shown.code == 2
    assert max(map(len, shown.frames)) <= 80
    assert shown.frames[0].startswith("Error: InvalidParameterError: epochs=0 is not")
    assert shown.has_colors


def test_table_fits_the_terminal(tmp_path: Path) -> None:
    """The widest column takes several lines."""
    shown = run_in_terminal([*TRIALRUN, "doctor"], width=60)
    assert max(map(len, shown.frames)) <= 60 or any("/" in line for line in shown.frames)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00"), (125, "2:05"), (3599.6, "1:00:00")],
)
def test_duration_has_sensible_digits(seconds: float, text: str) -> None:
    """Seconds with one digit, then minutes, then hours."""
    assert format_duration(seconds) == text


def test_unknown_width_is_80(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """COLUMNS sets it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    with (tmp_path / "log").open("w") as file:
        assert find_width(file) == 80
        monkeypatch.setenv("COLUMNS", "120")
        assert find_width(file) == 120


@pytest.mark.slow
def test_interrupted_training_leaves_a_clean_terminal(store: str, images: str) -> None:
    """The progress line is gone, the cursor is visible, and the hint says how to continue."""
    command = [*train(images), "--epochs", "500", "--patience", "500"]
    shown = run_in_terminal(command, interrupt_at="Epoch 3/500")
    assert shown.code == 75
    assert not [line for line in shown.screen if " left" in line]
    assert shown.text.rindex("\x1b[?25h") > shown.text.rfind("\x1b[?25l")
    (error,) = [line for line in shown.screen if line.startswith("Error: ")]
    assert error.startswith("Error: Interrupted: ")
    assert "trialrun resume" in " ".join(shown.screen)
