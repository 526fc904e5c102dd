"""What is told beside the figures when a model is judged, and where a run's paths began."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import trialrun
from tests.conftest import write_classes
from trialrun.cli import run_cli
from trialrun.errors import InvalidParameterError, TrialrunError
from trialrun.runs.training.plan import plan_training

TINY: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


def test_classes_that_the_model_does_not_know_are_named(
    store: str, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their images can only be wrong: evaluation and scoring say how many there are."""
    trained = trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    data = write_classes(tmp_path / "more", {"blue": 2, "purple": 3})
    found = trialrun.evaluate(str(trained.model_uri), str(data))
    assert found.unknown_classes == {"purple": 3}
    output = str(tmp_path / "scored.csv")
    assert run_cli(["score", "models:/colors/1", str(data), "--output", output]) == 0
    assert "3 images are of purple, which the model does not know" in capsys.readouterr().err


def test_a_run_is_reproduced_from_another_folder(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its paths are those of where it was started, though another set has that name here."""
    monkeypatch.chdir(tmp_path)
    trained = trialrun.train(train_data=colors.name, **TINY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copytree(colors / "red", tmp_path / "elsewhere" / colors.name / "red")
    assert trialrun.reproduce(trained.run_id).verdict == "identical"


def test_a_run_is_reproduced_by_the_version_it_made(store: str, colors: Path) -> None:
    """Whoever knows the model need not look its run up."""
    trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    assert trialrun.reproduce("models:/colors/1").verdict == "identical"


def test_missing_weights_and_a_wrong_limit_are_told_with_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before torch is loaded and any run is opened."""
    monkeypatch.setenv("TRIALRUN_CACHE_GB", "much")
    with pytest.raises(TrialrunError) as raised:
        plan_training({"epochs": "0", "weights": "no-such.pt"})
    told = str(raised.value)
    assert all(each in told for each in ("epochs=0", "no-such.pt", "TRIALRUN_CACHE_GB=much"))


def test_more_ranks_than_images_are_refused(colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank without images would make every mean NaN."""
    for name, value in {"WORLD_SIZE": "64", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidParameterError, match="64 ranks have"):
        plan_training({"train_data": str(colors)})


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["history", "nobody"], "lists runs and models"),
        (["score", "models:/nobody", "x", "--output", "a.csv"], "Name a version"),
        (["score", "runs:/0", "x", "--output", "a.csv"], "runs:/RUN_ID/model"),
        (["promote", "nobody", "--version", "one", "--data", "x"], "@champion"),
    ],
)
def test_hints_name_what_to_give(
    store: str, colors: Path, arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that is up is not to blame for a name that is not there."""
    assert run_cli([str(colors) if each == "x" else each for each in arguments]) in (2, 5)
    assert hint in capsys.readouterr().err
