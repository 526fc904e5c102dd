"""Runs during which the clock is set back by an hour."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.runs.recovery.interruptions import SETTINGS, interrupt_training
from trialrun.engine.early_stopping import EpochStatus
from trialrun.runs.api import run_training
from trialrun.runs.callbacks import NoOpCallback

HOUR = 3600.0


@pytest.fixture
def set_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that sets the clock of this process back by an hour."""
    real, real_ns = time.time, time.time_ns
    shift = 0.0

    def turn() -> None:
        nonlocal shift
        shift -= HOUR

    monkeypatch.setattr(time, "time", lambda: real() + shift)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(shift * 1e9))
    return turn


class ClockTurner(NoOpCallback):
    """Sets the clock back after the first epoch."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self._turn = turn

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Set the clock back once."""
        if status.result.epoch == 1:
            self._turn()


@pytest.mark.slow
def test_no_record_is_lost(store: str, colors: Path, set_back: Callable[[], None]) -> None:
    """Intervals are measured by another clock: checkpoints are taken, and the time budget holds."""
    settings = {**SETTINGS, "train_data": str(colors), "max_minutes": 30, "register_as": "colors"}
    result = run_training(settings, lambda: nullcontext(ClockTurner(set_back)))
    assert (result.stop_reason, result.stopped_epoch, result.model_version) == ("completed", 3, "1")
    client = mlflow.MlflowClient(store)
    run = client.get_run(result.run_id)
    steps = {
        name: sorted(item.step for item in client.get_metric_history(result.run_id, name))
        for name in run.data.metrics
        if not name.startswith("system/")
    }
    assert all(found in ([0], [1, 2, 3]) for found in steps.values()), steps
    assert run.data.metrics["num_checkpoints"] > 10
    assert 0 < run.data.metrics["training_seconds"] < HOUR
    history = client.get_metric_history(result.run_id, "train_loss")
    last = max(history, key=lambda item: item.step)
    assert run.data.metrics["train_loss"] == last.value
    assert run.info.end_time >= run.info.start_time
    assert not Path(run.data.tags["trialrun.run_folder"]).exists()


@pytest.mark.slow
def test_run_is_resumed_after_the_clock_was_set_back(
    store: str, colors: Path, set_back: Callable[[], None]
) -> None:
    """The newest checkpoint is that with the highest number, whatever its time."""
    interrupted = interrupt_training(store, colors)
    set_back()
    result, notes = interrupted.resume()
    whole = trialrun.train(train_data=str(colors), **SETTINGS)
    assert notes[0] == "resumed at epoch 2, step 2"
    assert result.weights_sha256 == whole.weights_sha256
    run = interrupted.read_run()
    assert run.info.end_time >= run.info.start_time
