"""Tests of --config and --save-config."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import trialrun
from tests.runs.training.test_run import QUICK, read_text_artifact
from tests.tuning.conftest import settings as short_search
from trialrun.cli import run_cli
from trialrun.cli.settings_file import merge_settings, parse_value
from trialrun.config import NONE_TEXT, Setting, TrainConfig, build_config, list_settings
from trialrun.config.record import format_record

Capture = pytest.CaptureFixture[str]


def write(tmp_path: Path, text: str) -> str:
    """Write a settings file; return its path."""
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def read(path: str, **flags: str) -> TrainConfig:
    """Return the training settings of a file and of flags."""
    return build_config(TrainConfig, merge_settings(path, flags, TrainConfig, check=parse_value))


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """Return a strategy for legal values of a setting."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
    if not setting.optional:
        texts = texts.filter(lambda text: text.strip().lower() != NONE_TEXT)  # no legal value
    low, high = max(setting.rule.low, -1e12), min(setting.rule.high, 1e12, setting.rule.lt)
    values: st.SearchStrategy[Any] = {
        int: st.integers(int(low), int(high)),
        float: st.floats(low, high, exclude_max=setting.rule.lt <= high),
        bool: st.booleans(),
        str: st.just("0:4095") if setting.name == "value_range" else texts,
    }[setting.type]
    if setting.rule.choices:
        values = st.sampled_from(setting.rule.choices)
    if setting.rule.auto:
        values |= st.just("auto")
    return values | st.none() if setting.optional else values


# One length of the warm-up is set, and no first image size that may exceed the full one.
_LEFT_OUT = ("device", "warmup_steps", "warmup_fraction", "progressive_resize")
FREE = [item for item in list_settings(TrainConfig) if item.name not in _LEFT_OUT]
PATTERNS = [item for item in FREE if not item.rule.pattern or item.name == "value_range"]


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional={item.name: values_of(item) for item in PATTERNS}))
def test_written_settings_are_read_unchanged(values: dict[str, Any]) -> None:
    """Any legal settings survive the way through a file."""
    config = build_config(TrainConfig, values)
    with tempfile.TemporaryDirectory() as folder:
        assert read(write(Path(folder), format_record(config))) == config


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("learning_rate: 1e-3", 0.001),
        ("run_name: no", "no"),
        ("run_name: on", "on"),
        ("run_name: 1:30", "1:30"),
        ("run_name: 2026-11-22", "2026-11-22"),
        ("run_name: 010", "010"),
        ("epochs: 010", 10),
        ("report: no", False),
        ("report: off", False),
        ("strict: on", True),
        ("valid_data:", None),
        ("valid_data: ~", None),
        ("valid_data: null", None),
        ("valid_data: none", None),
        ('run_name: "~"', "~"),
    ],
)
def test_value_keeps_its_meaning(tmp_path: Path, line: str, value: object) -> None:
    """YAML 1.1 would make a text of 1e-3, false of no, 90 of 1:30 and 8 of 010."""
    name = line.partition(":")[0]
    assert getattr(read(write(tmp_path, line)), name) == value


def test_flags_replace_the_values_of_the_file(tmp_path: Path) -> None:
    """The other values of the file remain."""
    config = read(write(tmp_path, "epochs: 7\nbatch_size: 8\n"), epochs="2")
    assert (config.epochs, config.batch_size) == (2, 8)


def test_all_problems_are_named_with_the_file(tmp_path: Path, capsys: Capture) -> None:
    """Unknown names, wrong values and lists of the file, and the wrong flags, in one error."""
    path = write(tmp_path, "epoch: 3\nbatch_size: 0\nlearning_rate: [1, 2]\nbatch-size: 8\n")
    assert run_cli(["train", "--config", path, "--patience", "0"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("Error: InvalidParameterError: ")
    for text in (
        f"{path}: there is no setting epoch;",
        f"{path}: batch_size=0 is not",
        f"{path}: learning_rate is a list",
        f"{path}: there is no setting batch-size;",
        "; patience=0 is not",
    ):
        assert text in error
    assert "Did you mean epochs?" in hint
    assert "Did you mean batch_size?" in hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- epochs",
        "epochs: {a: 1}",
        "epochs: [[1]]",
        "epochs: 1\nepochs: 2",
        "a: {",
        "[" * 9999,
        "epochs: !!python/object/apply:os.system [echo]",
        "epochs: !!python/name:os.system ''",
    ],
    ids=lambda text: text[:12],
)
def test_file_that_is_no_mapping_is_an_invalid_parameter(
    tmp_path: Path, text: str, capsys: Capture
) -> None:
    """The error names the file; nothing in it is executed."""
    path = write(tmp_path, text)
    assert run_cli(["train", "--config", path]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"config={path} cannot be read: " in lines[0]


def test_missing_file_is_an_invalid_parameter(tmp_path: Path, capsys: Capture) -> None:
    """So is a folder."""
    assert run_cli(["train", "--config", str(tmp_path / "no.yaml")]) == 2
    assert run_cli(["search", "--config", str(tmp_path)]) == 2
    assert "No such file" in capsys.readouterr().err


def test_save_config_writes_the_settings_and_starts_nothing(
    tmp_path: Path, capsys: Capture
) -> None:
    """Defaults, the values of a file and flags are in it; no training data is needed."""
    given_file = write(tmp_path, "train_data: /no/such\nepochs: 7\n")
    saved = tmp_path / "saved.yaml"
    arguments = ["--config", given_file, "--epochs", "9", "--save-config", str(saved)]
    assert run_cli(["train", *arguments]) == 0
    captured = capsys.readouterr()
    assert str(saved) in captured.out
    assert "Nothing was started" in captured.err
    values = {"train_data": "/no/such", "epochs": 9}
    assert read(str(saved)) == build_config(TrainConfig, values)


def test_save_config_refuses_what_training_refuses(tmp_path: Path, capsys: Capture) -> None:
    """A wrong value is not written."""
    saved = tmp_path / "saved.yaml"
    assert run_cli(["train", "--epochs", "0", "--save-config", str(saved)]) == 2
    assert not saved.exists()
    assert run_cli(["train", "--save-config", "/dev/null/saved.yaml"]) == 6
    assert "StorageError" in capsys.readouterr().err


def test_search_reads_ranges_and_lists(tmp_path: Path, capsys: Capture) -> None:
    """A saved file of a search has them too, beside the settings of the search."""
    given_file = write(
        tmp_path, "learning_rate: 1e-4:1e-2\nbatch_size: [8, 16]\ntrials: 3\nepochs: 8:32:8\n"
    )
    saved = tmp_path / "saved.yaml"
    assert run_cli(["search", "--config", given_file, "--save-config", str(saved), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"config": str(saved)}
    values = yaml.safe_load(saved.read_text())
    assert (values["learning_rate"], values["batch_size"]) == ("0.0001:0.01", "8,16")
    assert (values["trials"], values["epochs"], values["patience"]) == (3, "8:32:8", 3)


def test_search_names_wrong_ranges_with_the_file(tmp_path: Path, capsys: Capture) -> None:
    """A range whose ends are reversed, and a setting that cannot be searched."""
    path = write(tmp_path, "learning_rate: 1e-1:1e-4\ntrials: 0\nrandom_seed: [1, 2]\n")
    assert run_cli(["search", "--config", path]) == 2
    error = capsys.readouterr().err
    assert f"{path}: learning_rate=1e-1:1e-4 ends below its start" in error
    assert f"{path}: trials=0 is not" in error
    assert f"{path}: random_seed=['1', '2']: random_seed cannot be searched" in error


def test_config_of_a_run_starts_it_again(store: str, colors: Path, tmp_path: Path) -> None:
    """The artifact config.yaml gives the same settings."""
    result = trialrun.train(train_data=str(colors), **{**QUICK, "epochs": 1})
    path = write(tmp_path, read_text_artifact(result.run_id, "config.yaml"))
    expected = build_config(TrainConfig, {"train_data": str(colors), **QUICK, "epochs": 1})
    assert read(path) == expected


@pytest.mark.slow
def test_config_of_a_search_starts_it_again(
    store: str, colors: Path, tmp_path: Path, capsys: Capture
) -> None:
    """It names the study, which is then found complete."""
    result = trialrun.search(**short_search(colors, trials=1))
    path = write(tmp_path, read_text_artifact(result.run_id, "config.yaml"))
    assert run_cli(["search", "--config", path, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["study"], again["num_trials"]["complete"]) == (result.study, 1)


def test_recorded_settings_have_no_credentials() -> None:
    """Users, passwords and signatures of URLs are left out of the artifact."""
    values = {
        "train_data": "https://ann:secret@example.org/images.zip?sig=secret",
        "weights": "s3://key:secret@bucket/weights.safetensors",
    }
    config = build_config(TrainConfig, values)
    record = format_record(config, is_public=True)
    assert not re.search("secret|ann|key:", record)
    assert "secret" in format_record(config)
