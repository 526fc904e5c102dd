"""Tests of the command line: exit codes, two-line errors, JSON, and late imports."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

import trialrun
from tests.conftest import write_classes, write_image
from trialrun.cli import run_cli
from trialrun.config import TrainConfig, list_settings

NETWORK = "shufflenet_v2_x0_5"


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """`train --help` lists each flag with its default."""
    assert run_cli(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(item.flag in shown for item in list_settings(TrainConfig))


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["train", "--epochs", "0"], 2, "InvalidParameterError"),
        (["train", "--no-such-flag", "1"], 2, "InvalidParameterError"),
        (["no-such-command"], 2, "InvalidParameterError"),
        (["train", "--train-data", "/no/such"], 3, "InvalidDatasetError"),
        (["train", "--model", "resnet19"], 4, "InvalidModelDirectoryError"),
        (["score", "/no/such", "/no/such", "--output", "a.txt"], 2, "InvalidParameterError"),
        (["model", "init", "resnet19", "/no/such"], 4, "InvalidModelDirectoryError"),
        (["model", "init", "resnet18", "/dev/null/x"], 6, "StorageError"),
    ],
)
def test_error_prints_two_lines_and_sets_the_exit_code(
    arguments: list[str], code: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines hold the error and a hint; there is no traceback."""
    assert run_cli(arguments) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"Error: {kind}: ")
    assert lines[1].startswith("Hint: ")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("group", "first_commands"),
    [
        ([], ["data", "model", "train", "resume", "search"]),
        (["data"], ["check", "convert", "split"]),
        (["model"], ["list", "init"]),
        (["cache"], ["list", "clear"]),
    ],
    ids=["root", "data", "model", "cache"],
)
def test_group_without_a_command_prints_its_help(
    group: list[str], first_commands: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands are in the order of their use, each with a whole sentence on one line."""
    assert run_cli(group) == 2
    _, _, commands = capsys.readouterr().err.partition("Commands:\n")
    names = [line.split()[0] for line in commands.splitlines()]
    assert names[: len(first_commands)] == first_commands
    assert all(line.endswith(".") and "..." not in line for line in commands.splitlines())


def test_help_of_every_command_names_the_common_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--quiet` and `--debug` are options of the root, but are accepted after a command too."""
    for command in (["train"], ["data", "check"], ["cache", "list"]):
        assert run_cli([*command, "--help"]) == 0
        text = capsys.readouterr().out
        assert "--quiet" in text
        assert "--debug" in text


def test_version_option_prints_the_package_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is the version that `pip show` prints."""
    assert run_cli(["--version"]) == 0
    assert capsys.readouterr().out == f"trialrun {version('trialrun')}\n"


def test_hint_names_the_help_of_the_failed_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Its help lists the arguments and options of that command."""
    assert run_cli(["cache", "list", "--limit", "3"]) == 2
    assert "trialrun cache list --help" in capsys.readouterr().err


def test_switch_of_one_command_takes_no_value_in_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--strict` is a setting of `train` and a plain switch of `data check`."""
    images = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    assert run_cli(["data", "check", str(images), "--strict", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sets"]) == 1


def test_other_ranks_print_only_their_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second machine may lack the data; results are printed by rank 0 only."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run_cli(["train", "--train-data", "/no/such"]) == 3
    assert "Error: InvalidDatasetError: rank 1: /no/such not found" in capsys.readouterr().err
    assert run_cli(["model", "list"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("RANK")
    assert run_cli(["model", "list"]) == 2
    assert capsys.readouterr().err.startswith("Error: InvalidParameterError: WORLD_SIZE is set")


def test_debug_prints_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback precedes the two lines."""
    assert run_cli(["train", "--epochs", "0", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--epochs", "0", "--learning-rate", "nan"],
        ["train", "--train-data", "/no/such"],
        ["train", "--model", "resnet19"],
    ],
)
def test_heavy_packages_are_imported_late(arguments: list[str]) -> None:
    """Help and wrong input are answered without torch, MLflow, Optuna or pandas."""
    code = (
        "import sys; from trialrun.cli import run_cli; run_cli(sys.argv[1:]);"
        "heavy = {'torch', 'mlflow', 'optuna', 'pandas', 'sklearn'} & set(sys.modules);"
        "sys.exit(len(heavy))"
    )
    process = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    assert process.returncode == 0


def test_train_prints_only_json_on_standard_output(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json, standard output holds one object; progress goes to standard error."""
    arguments = ["--model", NETWORK, "--epochs", "1", "--batch-size", "8", "--json"]
    assert run_cli(["train", "--train-data", str(colors), *arguments]) == 0
    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    result = json.loads(line)
    assert result["status"] == "FINISHED"
    assert result["model_name"] is None
    assert {
        "run_id", "stop_reason", "stopped_epoch", "best_epoch", "best_valid_loss", "metrics",
        "weights_sha256", "model_uri", "model_version",
    } <= result.keys()  # fmt: skip
    assert "Epoch 1/1" in captured.err


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_score_writes_one_row_per_image(
    store: str, colors: Path, tmp_path: Path, suffix: str
) -> None:
    """Unreadable images have a row too; the probabilities of the others sum to one."""
    trained = trialrun.train(train_data=str(colors), model=NETWORK, epochs=1, batch_size=8)
    data = write_classes(tmp_path / "more", {"blue": 2, "red": 1}, seed=77)
    (data / "red" / "broken.png").write_bytes(b"no picture")
    output = tmp_path / f"scored{suffix}"
    assert run_cli(["score", str(trained.model_uri), str(data), "--output", str(output)]) == 0
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert table["path"].tolist() == ["blue/000.png", "blue/001.png", "red/000.png",
                                      "red/broken.png"]  # fmt: skip
    assert table["category"].tolist() == ["blue", "blue", "red", "red"]
    columns = [f"Scored Probabilities_{name}" for name in ("blue", "green", "red")]
    assert table[columns].iloc[:3].sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    assert table[columns].iloc[3].isna().all()
    assert "not an image" in table["error"].iloc[3]


def test_unlabelled_images_are_scored(store: str, colors: Path, tmp_path: Path) -> None:
    """Without labels the table has no category column, and there is no error."""
    trained = trialrun.train(train_data=str(colors), model=NETWORK, epochs=1, batch_size=8)
    write_image(tmp_path / "flat" / "one.png", (250, 10, 10))
    result = trialrun.score(
        str(trained.model_uri), str(tmp_path / "flat"), str(tmp_path / "scored.csv")
    )
    table = pd.read_csv(result.output)
    assert (len(table), "category" in table) == (1, False)


def test_model_list_prints_all_networks(capsys: pytest.CaptureFixture[str]) -> None:
    """As lines, or as one JSON object with --json."""
    assert run_cli(["model", "list"]) == 0
    assert "densenet201" in capsys.readouterr().out
    assert run_cli(["model", "list", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert "resnext101_32x8d" in [entry["name"] for entry in models]
