"""Ranges and choices: parsing, and errors that are reported while planning."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.config import TrainConfig, list_settings
from trialrun.errors import InvalidParameterError
from trialrun.tuning.plan import plan_search
from trialrun.tuning.space import Choice, Range, Space, parse_dimension
from trialrun.tuning.storage_url import redact_password
from trialrun.tuning.study.samplers import make_pruner

SETTINGS = {item.name: item for item in list_settings(TrainConfig)}


def parse(name: str, text: str) -> Range | Choice:
    """Return the dimension of a setting."""
    return parse_dimension(SETTINGS[name], text)


def test_a_range_of_learning_rates_is_log_uniform() -> None:
    """A setting that is declared logarithmic has a logarithmic range."""
    assert parse("learning_rate", "1e-4:1e-1") == Range(1e-4, 0.1, None, True, integer=False)


def test_a_range_in_steps_is_linear() -> None:
    """The third number is the step; an integer setting has integer values."""
    batches = parse("batch_size", "8:64:8")
    assert batches == Range(8, 64, 8, False, integer=True)
    values = [batches.value_at(index) for index in range(batches.num_values() or 0)]
    assert values == [*range(8, 65, 8)]


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": "0:5", "warmup_epochs": "0:0.5"},
        {"warmup_steps": "0:5", "warmup_epochs": 0.5},
    ],
    ids=str,
)
def test_only_one_unit_of_the_warm_up_is_searched(settings: dict[str, Any]) -> None:
    """Trials that sample both would all fail."""
    with pytest.raises(InvalidParameterError, match="several lengths of the warm-up"):
        plan_search({"train_data": "sample:digits", **settings})


def test_a_range_from_zero_is_linear() -> None:
    """Zero has no logarithm, so a logarithmic setting is linear as well."""
    assert parse("weight_decay", "0:0.1") == Range(0, 0.1, None, False, integer=False)


def test_a_list_is_a_choice_without_duplicates() -> None:
    """Comma-separated values are options, each once."""
    assert parse("batch_size", "8, 16,8") == Choice((8, 16))
    assert parse("image_size", "auto,64") == Choice(("auto", 64))
    assert parse("model", "resnet18,resnet34") == Choice(("resnet18", "resnet34"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("learning_rate", "1e-1:1e-4"),
        ("learning_rate", "0:1"),
        ("batch_size", "8:64:100"),
        ("batch_size", "8:64:0"),
        ("batch_size", "8:64:x"),
        ("batch_size", "1:2:3:4"),
        ("batch_size", "8:"),
        ("batch_size", "8,x"),
        ("image_size", "auto:64"),
        ("optimizer", "sgd,other"),
        ("random_seed", "1:5"),
        ("valid_fraction", "0.1,0.2"),
    ],
)
def test_invalid_ranges_are_rejected(name: str, text: str) -> None:
    """Reversed ends, illegal values, malformed text, or a setting that cannot be searched."""
    with pytest.raises(InvalidParameterError, match=name):
        parse(name, text)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("8:8", "starts and ends at 8", "Write 8 to fix it."),
        ("64:8", "ends below its start", "Write 8:64."),
        ("64:8:4", "ends below its start", "Write 8:64:4."),
    ],
)
def test_hint_of_a_wrong_range_can_be_typed(text: str, message: str, hint: str) -> None:
    """The hint is a value or a range that is accepted."""
    with pytest.raises(InvalidParameterError, match=message) as caught:
        parse("epochs", text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(("text", "max_epochs"), [("5,20,10", 20), ("5:12:5", 10), ("2:9", 9)])
def test_hyperband_uses_the_largest_number_of_epochs(
    text: str, max_epochs: int, colors: Path
) -> None:
    """For choices in any order, ranges in steps, and ranges."""
    plan = plan_search({"train_data": str(colors), "epochs": text, "pruner": "hyperband"})
    pruner: Any = make_pruner(plan)
    assert pruner._max_resource == max_epochs


@given(
    st.floats(1e-300, 1e300),
    st.floats(1e-300, 1e300),
)
def test_the_text_of_a_range_parses_to_that_range(a: float, b: float) -> None:
    """Both ends are inside the range."""
    low, high = sorted((a, b))
    if low == high:
        return
    dimension = parse("learning_rate", f"{low}:{high}")
    assert parse("learning_rate", dimension.text()) == dimension
    assert low in dimension
    assert high in dimension


@given(st.lists(st.integers(1, 10**6), min_size=2, unique=True))
def test_the_text_of_a_choice_parses_to_that_choice(sizes: list[int]) -> None:
    """A list of distinct integers is a choice of them in the same order."""
    dimension = parse("batch_size", ",".join(map(str, sizes)))
    assert dimension == Choice(tuple(sizes))
    assert parse("batch_size", dimension.text()) == dimension


@given(st.integers(1, 40), st.integers())
def test_a_grid_has_each_combination_once(max_points: int, seed: int) -> None:
    """A grid has all combinations, or the requested number of them."""
    space = Space({"batch_size": parse("batch_size", "2:8:2"), "epochs": Choice((1, 2, 3))})
    points = space.sample_grid(max_points, seed)
    assert len(points) == min(max_points, 12)
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert all(space.select_valid(point) == point for point in points)


def test_without_ranges_learning_rate_and_batch_size_are_searched(colors: Path) -> None:
    """The default space drops batch sizes larger than the training set."""
    plan = plan_search({"train_data": str(colors)})
    assert plan.space.texts() == {"learning_rate": "0.0001:0.1", "batch_size": "8,16"}
    assert "exceed" in plan.notes[0]


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    """Errors of search settings, ranges, fixed settings and data are merged into one."""
    with pytest.raises(InvalidParameterError) as caught:
        plan_search(
            {
                "trials": 0,
                "learning_rate": "1:0.1",
                "patience": "0",
                "metric": "f1",
                "train_data": str(tmp_path / "missing"),
            }
        )
    message = str(caught.value)
    assert all(part in message for part in ("trials=0", "1:0.1", "patience=0", "f1", "missing"))


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        (
            "postgresql://h/db?user=u&password=secret&a=b",
            "postgresql://h/db?user=u&password=***&a=b",
        ),
        (
            "postgresql://u:secret@h/db?sslpassword=secret",
            "postgresql://u:***@h/db?sslpassword=***",
        ),
        ("postgresql://u:sec@ret@h/db", "postgresql://u:***@h/db"),
        ("u:secret@h/db", "u:***@h/db"),
        ("u:/secret@h/db", "u:/***@h/db"),
        ("postgres:/u:secret@h/db", "postgres:/u:***@h/db"),
        ("host=h user=u password=secret dbname=db", "host=h user=u password=*** dbname=db"),
        ("sqlite:////home/a:b@c/optuna.db", "sqlite:////home/a:b@c/optuna.db"),
    ],
)
def test_passwords_are_redacted(url: str, redacted: str) -> None:
    """Passwords are removed from valid and malformed storage URLs."""
    assert redact_password(url) == redacted


@pytest.mark.parametrize(
    "url",
    ["u:secret@h/db", "postgresql://u:secret@h:notaport/db", "postgresql://u:sec@secret@h/db"],
)
def test_an_invalid_storage_url_is_reported_without_its_password(url: str, colors: Path) -> None:
    """Planning raises an error about the parameter `storage`."""
    with pytest.raises(InvalidParameterError, match="storage=") as caught:
        plan_search({"train_data": str(colors), "storage": url})
    assert "secret" not in str(caught.value)


def test_top5_with_too_few_classes_is_rejected_while_planning(colors: Path) -> None:
    """The metric is undefined for three classes, so every trial would fail."""
    with pytest.raises(InvalidParameterError, match="needs 5 classes, and there are 3"):
        plan_search({"train_data": str(colors), "metric": "valid_loss,valid_top5_accuracy"})


def test_a_reversed_range_is_reported_before_torch_is_imported() -> None:
    """Exit code 2 and two lines; torch, MLflow and Optuna are not imported."""
    code = (
        "import sys; from trialrun.cli import run_cli\n"
        "print(run_cli(['search', '--learning-rate', '1e-1:1e-4']),"
        " {'torch', 'mlflow', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 set()"
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["Error", "Hint"]
