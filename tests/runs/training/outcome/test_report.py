"""Tests of the curves in the report of a training."""

import io

from PIL import Image

from trialrun.runs.training.outcome.report import _collect_curves, draw_over_time

EPOCHS = [
    {"train_loss": 2.0, "valid_loss": 2.5, "valid_accuracy": 0.5, "epoch_seconds": 3.0},
    {"train_loss": 1.0, "valid_loss": 1.5, "valid_accuracy": 0.75, "epoch_seconds": 2.0},
]


def test_curves_are_by_epoch() -> None:
    """Panels without values are left out."""
    curves = _collect_curves(EPOCHS)
    assert curves["loss"] == {"training": {1: 2.0, 2: 1.0}, "validation": {1: 2.5, 2: 1.5}}
    assert set(curves) == {"loss", "accuracy"}


def test_accuracy_over_time_is_a_picture_of_its_own() -> None:
    """It depends on the seconds of the epochs, which the page of the report does not show."""
    slower = [{**epoch, "epoch_seconds": 60.0} for epoch in EPOCHS]
    picture = draw_over_time(EPOCHS)
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
    assert picture != draw_over_time(slower)
