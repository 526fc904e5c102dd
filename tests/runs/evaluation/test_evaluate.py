"""Evaluation: notes on unknown classes, and hints for wrong names."""

from pathlib import Path
from typing import Any

import pytest

import trialrun
from tests.conftest import write_classes
from trialrun.cli import run_cli

TINY: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


@pytest.mark.slow
def test_unknown_classes_are_reported(
    store: str, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluation and scoring count the images of each class that the model does not know."""
    trained = trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    data = write_classes(tmp_path / "more", {"blue": 2, "purple": 3})
    evaluation = trialrun.evaluate(str(trained.model_uri), str(data))
    assert evaluation.unknown_classes == {"purple": 3}
    output = str(tmp_path / "scored.csv")
    assert run_cli(["score", "models:/colors/1", str(data), "--output", output]) == 0
    assert "3 images are of class purple, which the model does not know" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["history", "nobody"], "lists runs and models"),
        (["score", "models:/nobody", "x", "--output", "a.csv"], "Name a version"),
        (["score", "runs:/0", "x", "--output", "a.csv"], "runs:/RUN_ID/model"),
        (["promote", "nobody", "--version", "one", "--data", "x"], "@champion"),
    ],
)
def test_hints_for_wrong_names_say_what_to_give(
    store: str, colors: Path, arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hint does not blame the server for a name that does not exist."""
    assert run_cli([str(colors) if word == "x" else word for word in arguments]) in (2, 5)
    assert hint in capsys.readouterr().err
