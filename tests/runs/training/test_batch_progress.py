"""Tests of the progress within an epoch."""

from pathlib import Path
from typing import Any

import pytest

from trialrun.runs.callbacks import BatchProgress, NoOpCallback
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run

# With a higher rate, batch norm over four images lets the validation loss overflow for some seeds.
QUICK: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-5,
}


class RecordingCallback(NoOpCallback):
    """Records the batches that it asks for."""

    def __init__(self, interval: float | None) -> None:
        self._interval = interval
        self.batches: list[BatchProgress] = []

    @property
    def batch_interval(self) -> float | None:
        """Seconds between two batches."""
        return self._interval

    def on_batch(self, progress: BatchProgress) -> None:
        """Record a batch."""
        self.batches.append(progress)


def train(colors: Path, interval: float | None) -> list[BatchProgress]:
    """Train on 30 images and validate on 6; return the batches that were reported."""
    callback = RecordingCallback(interval)
    train_run(plan_training({"train_data": str(colors), **QUICK}), callback)
    return callback.batches


def test_every_step_is_reported_without_an_interval(store: str, colors: Path) -> None:
    """The images that are done grow by a batch up to the size of the set; the loss is a mean."""
    batches = train(colors, 0.0)
    for epoch in (1, 2):
        steps = [item for item in batches if item.epoch == epoch and item.is_training]
        assert [item.num_done for item in steps] == [4, 8, 12, 16, 20, 24, 28, 30]
        assert all(item.num_images == 30 and item.epochs == 2 for item in steps)
        assert all(item.loss is not None and 0 < item.loss < 100 for item in steps)
        assert steps[-1].seconds_left == 0
    first, last = batches[0], batches[-1]
    assert first.run_seconds_left > first.seconds_left > 0
    assert first.images_per_second > 0
    assert last.run_seconds_left == pytest.approx(last.seconds_left)


def test_loss_is_that_of_the_epoch_so_far(store: str, colors: Path) -> None:
    """After the last step it is the training loss that the epoch records."""
    callback = RecordingCallback(0.0)
    result = train_run(plan_training({"train_data": str(colors), **QUICK, "epochs": 1}), callback)
    steps = [item for item in callback.batches if item.is_training]
    assert steps[-1].loss == pytest.approx(result.metrics["train_loss"])


@pytest.mark.parametrize("interval", [None, 3600.0])
def test_no_batch_is_reported_before_it_is_due(
    store: str, colors: Path, interval: float | None
) -> None:
    """A callback that shows no batches gets none."""
    assert train(colors, interval) == []
