"""Tests of -q/--quiet."""

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import write_classes
from tests.processes import run_program
from trialrun.cli import run_cli
from trialrun.cli.output import is_quiet, print_message, print_status, set_quiet

TRAIN = ["train", "--model", "shufflenet_v2_x0_5", "--epochs", "1", "--batch-size", "8"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_quiet_training_prints_only_its_result(store: str, colors: Path) -> None:
    """Standard error stays empty."""
    command = [sys.executable, "-m", "trialrun", "-q", *TRAIN, "--train-data", str(colors)]
    completed = run_program(command)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "valid_loss" in completed.stdout
    assert completed.stdout.startswith("\nTraining finished: ")


@pytest.mark.parametrize("line", ["-q cache list", "cache -q list", "cache list --quiet"])
def test_quiet_may_precede_or_follow_the_command(
    cache: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """It is in effect for one command line only."""
    assert run_cli(line.split()) == 0
    assert capsys.readouterr() == ("", "")
    assert not is_quiet()
    assert run_cli(["cache", "list"]) == 0
    assert "unpacked archives in" in capsys.readouterr().err


def test_quiet_command_prints_its_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results and the two lines of an error remain."""
    images = write_classes(tmp_path / "set", {"a": 2})
    assert run_cli(["data", "check", str(images), "-q"]) == 3
    printed = capsys.readouterr()
    assert "num_images" in printed.out
    assert [line.partition(":")[0] for line in printed.err.splitlines()] == ["Error", "Hint"]
    assert run_cli(["-q", "train", "--epochs", "0"]) == 2
    assert capsys.readouterr().err.startswith("Error: InvalidParameterError")
    assert run_cli(["-q", "no-such-command"]) == 2
    assert capsys.readouterr().err.startswith("Error: InvalidParameterError")
    assert run_cli(["-q"]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_quiet_switch_is_not_the_value_of_a_boolean_flag(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--strict -q` sets strict and hides status lines."""
    assert run_cli(["train", "--strict", "-q", "--train-data", "/no/such"]) == 3
    assert capsys.readouterr().err.startswith("Error: InvalidDatasetError")


def test_quiet_command_prints_its_json(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON object is a result."""
    assert run_cli(["cache", "list", "-q", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["packs"] == []
    assert printed.err == ""


def test_only_status_lines_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages remain, and the state of an outer context is restored."""
    with set_quiet(True):
        with set_quiet(False):
            print_status("shown")
        print_status("hidden")
        print_message("message")
    print_status("shown again")
    assert capsys.readouterr().err == "shown\nmessage\nshown again\n"
