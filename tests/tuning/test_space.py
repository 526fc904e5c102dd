"""Ranges and choices: how they are read, and what is told of wrong ones before anything loads."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.config import TrainConfig, list_settings
from trialrun.errors import InvalidParameterError
from trialrun.tuning.plan import plan_search, redact_password
from trialrun.tuning.space import Choice, Range, Space, parse_dimension
from trialrun.tuning.study.samplers import make_pruner

SETTINGS = {item.name: item for item in list_settings(TrainConfig)}


def parsed(name: str, text: str) -> Range | Choice:
    """The dimension of a setting."""
    return parse_dimension(SETTINGS[name], text)


def test_learning_rates_are_drawn_evenly_on_a_log_scale() -> None:
    """A range of a setting declared logarithmic is logarithmic."""
    assert parsed("learning_rate", "1e-4:1e-1") == Range(1e-4, 0.1, None, True, whole=False)


def test_a_range_in_steps_is_linear() -> None:
    """A third number is the step, of whole numbers where the setting is one."""
    batches = parsed("batch_size", "8:64:8")
    assert batches == Range(8, 64, 8, False, whole=True)
    assert [batches.value_at(place) for place in range(batches.num_values() or 0)] == [
        *range(8, 65, 8)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": "0:5", "warmup_epochs": "0:0.5"},
        {"warmup_steps": "0:5", "warmup_epochs": 0.5},
    ],
    ids=str,
)
def test_only_one_unit_of_the_warm_up_is_searched(settings: dict[str, Any]) -> None:
    """Trials that draw both would fail one after the other."""
    with pytest.raises(InvalidParameterError, match="warmup_epochs are both given"):
        plan_search({"train_data": "sample:digits", **settings})


def test_a_range_from_zero_is_linear_even_where_the_setting_is_logarithmic() -> None:
    """Zero has no logarithm."""
    assert parsed("weight_decay", "0:0.1") == Range(0, 0.1, None, False, whole=False)


def test_a_list_is_a_choice_without_doubles() -> None:
    """Values with commas are tried as they are, each once."""
    assert parsed("batch_size", "8, 16,8") == Choice((8, 16))
    assert parsed("image_size", "auto,64") == Choice(("auto", 64))
    assert parsed("model", "resnet18,resnet34") == Choice(("resnet18", "resnet34"))


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
def test_what_is_no_range_is_refused(name: str, text: str) -> None:
    """Turned round, outside the legal values, without sense, or of what cannot be searched."""
    with pytest.raises(InvalidParameterError, match=name):
        parsed(name, text)


@pytest.mark.parametrize(("text", "most"), [("5,20,10", 20), ("5:12:5", 10), ("2:9", 9)])
def test_hyperband_reckons_with_the_most_epochs(text: str, most: int, colors: Path) -> None:
    """Choices in any order, ranges in steps, ranges."""
    plan = plan_search({"train_data": str(colors), "epochs": text, "pruner": "hyperband"})
    pruner: Any = make_pruner(plan)
    assert pruner._max_resource == most


@given(
    st.floats(1e-300, 1e300),
    st.floats(1e-300, 1e300),
)
def test_a_range_reads_back_what_it_writes(one: float, other: float) -> None:
    """The text of a range parses to that range."""
    low, high = sorted((one, other))
    if low == high:
        return
    dimension = parsed("learning_rate", f"{low}:{high}")
    assert parsed("learning_rate", dimension.text()) == dimension
    assert low in dimension
    assert high in dimension


@given(st.lists(st.integers(1, 10**6), min_size=2, unique=True))
def test_a_choice_reads_back_what_it_writes(sizes: list[int]) -> None:
    """The text of a choice parses to that choice."""
    dimension = parsed("batch_size", ",".join(map(str, sizes)))
    assert dimension == Choice(tuple(sizes))
    assert parsed("batch_size", dimension.text()) == dimension


@given(st.integers(1, 40), st.integers())
def test_a_grid_holds_each_combination_once(most: int, seed: int) -> None:
    """A grid goes through all combinations, or as many as are asked for."""
    space = Space({"batch_size": parsed("batch_size", "2:8:2"), "epochs": Choice((1, 2, 3))})
    points = space.grid(most, seed)
    assert len(points) == min(most, 12)
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert all(space.fitting(point) == point for point in points)


def test_without_any_range_learning_rate_and_batch_size_are_searched(colors: Path) -> None:
    """The default space, without batches larger than the set."""
    plan = plan_search({"train_data": str(colors)})
    assert plan.space.texts() == {"learning_rate": "0.0001:0.1", "batch_size": "8,16"}
    assert "exceed" in plan.notes[0]


def test_everything_wrong_is_told_together(tmp_path: Path) -> None:
    """Search settings, ranges, fixed settings and data are complained of in one error."""
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
    told = str(caught.value)
    assert all(part in told for part in ("trials=0", "1:0.1", "patience=0", "f1", "missing"))


@pytest.mark.parametrize(
    ("address", "shown"),
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
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    """The address of a storage is shown without its passwords, however wrongly it is written."""
    assert redact_password(address) == shown


@pytest.mark.parametrize(
    "address",
    ["u:secret@h/db", "postgresql://u:secret@h:notaport/db", "postgresql://u:sec@secret@h/db"],
)
def test_an_address_that_is_none_is_told_without_its_password(address: str, colors: Path) -> None:
    """A wrong storage is an error of the parameter, found while planning."""
    with pytest.raises(InvalidParameterError, match="storage=") as caught:
        plan_search({"train_data": str(colors), "storage": address})
    assert "secret" not in str(caught.value)


def test_top5_of_fewer_classes_is_refused_while_planning(colors: Path) -> None:
    """The metric has no value for three classes, so that every trial would fail."""
    with pytest.raises(InvalidParameterError, match="needs 5 classes, and there are 3"):
        plan_search({"train_data": str(colors), "metric": "valid_loss,valid_top5_accuracy"})


def test_a_range_turned_round_is_told_before_torch_is_loaded() -> None:
    """Exit 2 in two lines, with neither torch, MLflow nor Optuna imported."""
    code = (
        "import sys; from trialrun.cli import run_cli\n"
        "print(run_cli(['search', '--learning-rate', '1e-1:1e-4']),"
        " {'torch', 'mlflow', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 set()"
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["Error", "Hint"]
