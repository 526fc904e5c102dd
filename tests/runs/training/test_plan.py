"""Plans of training runs: all errors of settings and data in one."""

from pathlib import Path

import pytest

from tests.conftest import write_classes
from trialrun.errors import InvalidDatasetError, InvalidParameterError, TrialrunError
from trialrun.runs.training.plan import plan_training


def test_batch_larger_than_the_set_is_refused(colors: Path) -> None:
    """The error gives the number of images."""
    with pytest.raises(InvalidParameterError, match=r"batch_size=31 .* \(30 images\)"):
        plan_training({"train_data": str(colors), "batch_size": 31})


def test_settings_and_data_are_checked_together(tmp_path: Path) -> None:
    """One error names an invalid number and two invalid folders."""
    one_class = write_classes(tmp_path / "one_class", {"only": 2})
    with pytest.raises(InvalidParameterError) as raised:
        plan_training({"train_data": str(one_class), "valid_data": "/no/such", "epochs": 0})
    text = str(raised.value)
    assert "epochs=0" in text
    assert "one class only" in text
    assert "/no/such" in text


@pytest.mark.parametrize(
    ("setting", "value"), [("warmup_steps", 100_000), ("warmup_epochs", 5)], ids=str
)
def test_a_warm_up_longer_than_the_run_is_refused(setting: str, value: int, colors: Path) -> None:
    """The error comes before training and gives the number of steps of the run."""
    with pytest.raises(InvalidParameterError, match=r"5 epochs of 2 steps"):
        plan_training({"train_data": str(colors), "batch_size": 15, setting: value})


def test_two_units_of_the_warm_up_and_a_wrong_folder_are_reported_together(colors: Path) -> None:
    """Conflicting settings do not hide other errors."""
    with pytest.raises(InvalidParameterError) as raised:
        plan_training(
            {"train_data": str(colors), "warmup_steps": 1, "warmup_epochs": 1, "valid_data": "/no"}
        )
    assert "are set together" in str(raised.value)
    assert "/no" in str(raised.value)


@pytest.mark.parametrize(
    "name", ["a/b", "a:1", "..", ".", "", "a#b", "a?b", "a@b", "a\tb", "a\nb", "n" * 257]
)
def test_an_invalid_registered_name_is_refused_before_training(name: str, colors: Path) -> None:
    """The error is that of a wrong parameter."""
    with pytest.raises(InvalidParameterError, match=r"register_as(=| is empty)"):
        plan_training({"train_data": str(colors), "register_as": name})


@pytest.mark.parametrize(
    ("name", "length"), [("experiment", 257), ("run_name", 251), ("register_as", 257)]
)
def test_a_name_that_databases_refuse_is_refused_before_training(
    name: str, length: int, colors: Path
) -> None:
    """PostgreSQL and MySQL limit the length; SQLite does not, but a store may be migrated."""
    with pytest.raises(InvalidParameterError, match=f"text of at most {length - 1} characters"):
        plan_training({"train_data": str(colors), name: "n" * length})


def test_missing_weights_and_a_wrong_cache_limit_are_reported_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One error names all, before torch is loaded and a run is opened."""
    monkeypatch.setenv("TRIALRUN_CACHE_GB", "much")
    with pytest.raises(TrialrunError) as raised:
        plan_training({"epochs": "0", "weights": "no-such.pt"})
    message = str(raised.value)
    assert all(text in message for text in ("epochs=0", "no-such.pt", "TRIALRUN_CACHE_GB=much"))


def test_more_ranks_than_images_are_refused(colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank without images would turn every mean into NaN."""
    for name, value in {"WORLD_SIZE": "64", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidParameterError, match="too few for 64 ranks"):
        plan_training({"train_data": str(colors)})


def test_split_folders_are_the_sets_of_a_run(tmp_path: Path) -> None:
    """Training is not asked to tell `train` from `val`; the test set is kept out."""
    for seed, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / part, {"cat": 8, "dog": 8}, seed=5000 * seed)
    plan = plan_training({"train_data": str(tmp_path)})
    assert plan.classes == ("cat", "dog")
    assert (plan.train.root.name, plan.valid.root.name) == ("train", "val")
    assert plan.data_layout == "splits (train=train; valid=val; not used: test)"
    alone = plan_training({"train_data": f"{tmp_path}/train", "batch_size": 2})
    assert (len(alone.train), len(alone.valid), alone.data_layout) == (12, 4, "one set")


def test_training_folder_without_validation_folder_is_split(tmp_path: Path) -> None:
    """Of `train` and `test`, the first is split by valid_fraction."""
    for part in ("train", "test"):
        write_classes(tmp_path / part, {"cat": 10, "dog": 10})
    plan = plan_training({"train_data": str(tmp_path), "valid_fraction": 0.3, "batch_size": 2})
    assert (len(plan.train), len(plan.valid)) == (14, 6)
    assert plan.valid.root.name == "train"


def test_validation_folder_with_other_classes_is_an_error(tmp_path: Path) -> None:
    """The error lists the differences, as for validation data that is given."""
    write_classes(tmp_path / "train", {"cat": 2, "dog": 2})
    write_classes(tmp_path / "val", {"cat": 2, "fox": 2})
    with pytest.raises(InvalidDatasetError, match=r"only in validation .*: fox; only in training"):
        plan_training({"train_data": str(tmp_path), "batch_size": 2})


def test_labels_may_differ_in_case_when_asked(tmp_path: Path) -> None:
    """They are refused with the ways out otherwise; a class list merges them."""
    root = write_classes(tmp_path / "set", {"A": 9, "a": 9, "b": 9})
    (tmp_path / "classes.txt").write_text("b\na = A\na = a\n")
    with pytest.raises(InvalidDatasetError, match="'A' and 'a'") as raised:
        plan_training({"train_data": str(root)})
    assert "case_sensitive_labels=true" in raised.value.hint
    apart = plan_training({"train_data": str(root), "case_sensitive_labels": True})
    assert apart.classes == ("A", "a", "b")
    merged = plan_training({"train_data": str(root), "classes": str(tmp_path / "classes.txt")})
    assert merged.classes == ("b", "a")
