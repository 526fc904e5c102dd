"""Trainings that are interrupted at a chosen place, in this process."""

import shutil
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

from tests.conftest import SMALL
from trialrun.checkpoint.run_folder import RunFolder
from trialrun.checkpoint.store import CheckpointStore
from trialrun.engine.early_stopping import EpochStatus
from trialrun.errors import RunInterruptedError
from trialrun.runs.api import resume_training, run_training
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.outcome.result import TrainResult

SETTINGS: dict[str, Any] = {
    "model": SMALL,
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.05,
    "checkpoint_minutes": 1e-9,  # after each step
    "device": "cpu",
}


class Notes(NoOpCallback):
    """Collects the notes of a run, and interrupts it in the epoch after `interrupted_epoch`."""

    def __init__(self, interrupted_epoch: int | None = None) -> None:
        self.texts: list[str] = []
        self._interrupted_epoch = interrupted_epoch

    def on_note(self, text: str) -> None:
        """Keep the note."""
        self.texts.append(text)

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Send a signal: training ends after the next step."""
        if status.result.epoch == self._interrupted_epoch:
            signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True)
class Interrupted:
    """An interrupted run and its folder."""

    store: str
    run_id: str
    folder: RunFolder

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of the checkpoints, the oldest first."""
        return CheckpointStore(self.folder.checkpoints).list_paths()

    def read_run(self) -> Run:
        """Return the MLflow run."""
        return mlflow.MlflowClient(self.store).get_run(self.run_id)

    def resume(self, **settings: Any) -> tuple[TrainResult, list[str]]:
        """Resume the run; return its result and the notes."""
        notes = Notes()
        return resume_training(self.run_id, settings, lambda: nullcontext(notes)), notes.texts

    def list_histories(self) -> dict[str, list[int]]:
        """Return the steps of the values of each metric, system metrics excepted."""
        client = mlflow.MlflowClient(self.store)
        return {
            name: sorted(item.step for item in client.get_metric_history(self.run_id, name))
            for name in self.read_run().data.metrics
            if not name.startswith("system/")
        }


def interrupt_training(store: str, data: Path, *, epoch: int = 1, **settings: Any) -> Interrupted:
    """Train with `SETTINGS`, and interrupt the run one step after epoch `epoch`."""
    values = {**SETTINGS, "train_data": str(data), **settings}
    with pytest.raises(RunInterruptedError):
        run_training(values, lambda: nullcontext(Notes(epoch)))
    client = mlflow.MlflowClient(store)
    experiments = [item.experiment_id for item in client.search_experiments()]
    run = client.search_runs(experiments)[0]
    assert run.info.status == "KILLED"
    folder = RunFolder(Path(run.data.tags["trialrun.run_folder"]))
    return Interrupted(store, run.info.run_id, folder)


def flip_byte(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_checkpoints(interrupted: Interrupted, kept: Path) -> None:
    """Replace the checkpoints by an earlier one: the process was killed before it wrote more."""
    shutil.rmtree(interrupted.folder.checkpoints)
    interrupted.folder.checkpoints.mkdir()
    shutil.copytree(kept, interrupted.folder.checkpoints / "1")
