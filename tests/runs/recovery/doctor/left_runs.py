"""Runs and folders as killed processes leave them, in a real store."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlflow
import torch

from trialrun.checkpoint.run_folder import FOLDER_TAG, RunFolder, create_run_folder
from trialrun.checkpoint.store import CheckpointStore
from trialrun.tracking import HEARTBEAT_TAG, Heartbeat, Journal, name_store
from trialrun.tracking.heartbeat import make_heartbeat
from trialrun.tracking.records import Record


def make_dead_heartbeat(**values: Any) -> Heartbeat:
    """Return the heartbeat of a process that had the pid of this one before it."""
    own = make_heartbeat()
    return replace(own, **{"created": own.created - 60, **values})


def leave_run(
    store: str,
    root: Path | None,
    *,
    heartbeat: Heartbeat | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Leave a run as RUNNING, with a folder below `root` if that is given; return its id."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    all_tags = {HEARTBEAT_TAG: (heartbeat or make_dead_heartbeat()).to_tag(), **tags}
    folder = None if root is None else create_run_folder(root, {"settings": {}})
    if folder is not None:
        all_tags[FOLDER_TAG] = str(folder.path)
    run = client.create_run(experiment.experiment_id, tags=all_tags, run_name="left")
    if folder is not None:
        write_owner(folder, store, run.info.run_id, experiment.experiment_id)
    return str(run.info.run_id)


def write_owner(folder: RunFolder, store: str, run_id: str, experiment_id: str) -> None:
    """Let a folder belong to a run."""
    folder.write_owner(run_id=run_id, experiment_id=experiment_id, tracking_uri=name_store(store))


def find_folder(store: str, run_id: str) -> RunFolder:
    """Return the folder of a run."""
    return RunFolder(Path(mlflow.MlflowClient(store).get_run(run_id).data.tags[FOLDER_TAG]))


def append_records(folder: RunFolder, *records: Record, acknowledge: int = 0) -> None:
    """Write records to the journal of a folder; the store has the first `acknowledge` of them."""
    journal = Journal(folder.journal)
    for record in records:
        journal.append(record)
    journal.acknowledge(range(1, acknowledge + 1))
    journal.close()


def write_checkpoints(folder: RunFolder, num: int = 2) -> list[Path]:
    """Write checkpoints; return their folders, the oldest first."""
    checkpoints = CheckpointStore(folder.checkpoints)
    return [checkpoints.write({"state": {"a": torch.ones(9)}}, {}, {}) for _ in range(num)]


def flip_byte(checkpoint: Path) -> None:
    """Change one bit of the tensors of a checkpoint."""
    path = checkpoint / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def read_run(store: str, run_id: str) -> Any:
    """Return a run."""
    return mlflow.MlflowClient(store).get_run(run_id)


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return round(1000 * time.time())
