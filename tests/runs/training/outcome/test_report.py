"""Tests of the curves in the report of a training."""

from trialrun.runs.training.outcome.report import _collect_curves

EPOCHS = [
    {"train_loss": 2.0, "valid_loss": 2.5, "valid_accuracy": 0.5, "epoch_seconds": 3.0},
    {"train_loss": 1.0, "valid_loss": 1.5, "valid_accuracy": 0.75, "epoch_seconds": 2.0},
]


def test_curves_are_by_epoch_and_the_accuracy_by_seconds_too() -> None:
    """Panels without values are left out."""
    curves = _collect_curves(EPOCHS)
    assert curves["loss"] == {"training": {1: 2.0, 2: 1.0}, "validation": {1: 2.5, 2: 1.5}}
    assert curves["accuracy over time"] == {"validation": {3.0: 0.5, 5.0: 0.75}}
    assert set(curves) == {"loss", "accuracy", "accuracy over time"}
