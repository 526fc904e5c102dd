"""Checkpoints among the artifacts of a run: another machine resumes from them."""

import shutil
from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.runs.recovery.interruptions import (
    SETTINGS,
    Interrupted,
    flip_byte,
    interrupt_training,
)
from trialrun.runs.training.resumption.artifacts import ARTIFACTS, SLOT_TAG, CheckpointUploader


def upload(interrupted: Interrupted, checkpoint: Path) -> None:
    """Store a checkpoint, and wait until it is stored."""
    uploader = CheckpointUploader(mlflow.MlflowClient(interrupted.store), interrupted.run_id)
    uploader.submit(checkpoint)
    uploader.close()


def find_slot(interrupted: Interrupted, name: str) -> Path:
    """Return the folder of one of the two stored checkpoints."""
    return Path(interrupted.read_run().info.artifact_uri) / ARTIFACTS / name


@pytest.fixture
def moved(store: str, colors: Path) -> Interrupted:
    """An interrupted run whose folder is on another machine; its two checkpoints are stored."""
    interrupted = interrupt_training(store, colors, checkpoint_artifacts=True)
    for path in interrupted.checkpoints:
        upload(interrupted, path)
    shutil.rmtree(interrupted.folder.path)
    return interrupted


@pytest.mark.slow
def test_another_machine_continues_bit_identically(moved: Interrupted, colors: Path) -> None:
    """Each metric has one value per step, and the stored checkpoints are deleted at the end."""
    result, notes = moved.resume()
    whole = trialrun.train(train_data=str(colors), **SETTINGS)
    assert notes[0] == "resumed at epoch 2, step 2"
    assert (result.run_id, result.weights_sha256) == (moved.run_id, whole.weights_sha256)
    histories = moved.list_histories()
    assert all(steps in ([0], [1, 2, 3]) for steps in histories.values()), histories
    stored = mlflow.MlflowClient(moved.store).list_artifacts(moved.run_id)
    assert ARTIFACTS not in {item.path for item in stored}
    assert SLOT_TAG not in moved.read_run().data.tags


@pytest.mark.slow
def test_damaged_stored_checkpoint_is_passed_over(moved: Interrupted, colors: Path) -> None:
    """The other one is used: its process was killed while it stored the newest."""
    newest = moved.read_run().data.tags[SLOT_TAG]
    flip_byte(find_slot(moved, newest) / "state.safetensors")
    result, notes = moved.resume()
    whole = trialrun.train(train_data=str(colors), **SETTINGS)
    assert notes[0] == "resumed at epoch 2, step 1"
    assert result.weights_sha256 == whole.weights_sha256


def test_newest_stored_checkpoint_is_overwritten_last(store: str, colors: Path) -> None:
    """A new process does not start with the only complete one, which it would destroy if killed."""
    interrupted = interrupt_training(store, colors)
    older, newest = interrupted.checkpoints
    upload(interrupted, older)
    before = (find_slot(interrupted, "a") / "manifest.json").read_bytes()
    upload(interrupted, newest)
    assert (find_slot(interrupted, "a") / "manifest.json").read_bytes() == before
    assert interrupted.read_run().data.tags[SLOT_TAG] == "b"
    upload(interrupted, newest)
    assert interrupted.read_run().data.tags[SLOT_TAG] == "a"


@pytest.mark.slow
def test_run_killed_at_its_end_is_completed_on_another_machine(store: str, colors: Path) -> None:
    """Its summary was logged already: it keeps one value of each metric."""
    interrupted = interrupt_training(
        store, colors, epoch=3, checkpoint_artifacts=True, register_as="colors"
    )
    upload(interrupted, interrupted.checkpoints[-1])
    client = mlflow.MlflowClient(store)
    for name in ("training_seconds", "num_checkpoints", "best_epoch"):
        client.log_metric(interrupted.run_id, name, 3.0, step=0)
    shutil.rmtree(interrupted.folder.path)
    interrupted.resume()
    histories = interrupted.list_histories()
    assert all(steps in ([0], [1, 2, 3]) for steps in histories.values()), histories


@pytest.mark.slow
def test_run_without_a_stored_checkpoint_starts_over(store: str, colors: Path) -> None:
    """The folder is lost: the run says so, and its metrics keep one value per step."""
    interrupted = interrupt_training(store, colors)
    shutil.rmtree(interrupted.folder.path)
    result, notes = interrupted.resume()
    whole = trialrun.train(train_data=str(colors), **SETTINGS)
    assert notes[0] == "the run has no checkpoint yet: training starts from its beginning"
    assert result.weights_sha256 == whole.weights_sha256
    histories = interrupted.list_histories()
    assert all(steps in ([0], [1, 2, 3]) for steps in histories.values()), histories
