"""The newest checkpoint of a run as MLflow artifacts, from which another machine can resume.

Two folders are written in turns, so that one of them is complete while the other is overwritten.
Only the newest checkpoint matters: one that cannot be stored now is replaced by the next.
"""

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.checkpoint.store import (
    Checkpoint,
    CheckpointStore,
    DamagedCheckpointError,
    read_checkpoint,
)
from trialrun.errors import TrialrunError
from trialrun.files import scratch_directory, translate_storage_errors
from trialrun.mlflow_client import translate_tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "checkpoints"
SLOT_TAG = "trialrun.checkpoint_slot"  # the folder with the newest complete checkpoint
_SLOTS = ("a", "b")
_STOP_SECONDS = 2.0


class CheckpointUploader:
    """Stores the newest checkpoint in a thread; errors of the store are ignored."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._newest: Path | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._upload_until_closed, daemon=True)
        self._thread.start()

    def submit(self, path: Path) -> None:
        """Store the checkpoint in `path` next, instead of one that waits."""
        with self._changed:
            self._newest = path
            self._changed.notify()

    def close(self) -> None:
        """Stop after the upload in progress, or soon if it takes long."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_STOP_SECONDS)

    def delete(self) -> None:
        """Delete what is stored, once a finished run does not need it; errors are ignored."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with suppress(TrialrunError), translate_tracking_errors("checkpoints cannot be deleted"):
            if ARTIFACTS in {item.path for item in self._client.list_artifacts(self._run_id)}:
                uri = self._client.get_run(self._run_id).info.artifact_uri
                get_artifact_repository(uri).delete_artifacts(ARTIFACTS)
                self._client.delete_tag(self._run_id, SLOT_TAG)

    def _upload_until_closed(self) -> None:
        while (path := self._wait_for_path()) is not None:
            with suppress(TrialrunError), translate_tracking_errors("the checkpoint is not stored"):
                slot = self._choose_slot()
                self._client.log_artifacts(self._run_id, str(path), f"{ARTIFACTS}/{slot}")
                self._client.set_tag(self._run_id, SLOT_TAG, slot)

    def _choose_slot(self) -> str:
        """Return the folder that does not hold the newest complete checkpoint."""
        newest = self._client.get_run(self._run_id).data.tags.get(SLOT_TAG)
        return next(slot for slot in _SLOTS if slot != newest)

    def _wait_for_path(self) -> Path | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._is_closed)
            path, self._newest = self._newest, None
            return path


def fetch_checkpoints(client: "MlflowClient", run_id: str, folder: RunFolder) -> int:
    """Copy the intact checkpoints among a run's artifacts into its folder; return their number.

    Raises:
        TrackingError: The store fails.
        StorageError: The folder cannot be written.
    """
    with translate_tracking_errors(f"the checkpoints of run {run_id} cannot be read"):
        if ARTIFACTS not in {entry.path for entry in client.list_artifacts(run_id)}:
            return 0
        with scratch_directory() as scratch:
            downloaded = Path(client.download_artifacts(run_id, ARTIFACTS, str(scratch)))
            found = [_read_slot(downloaded / slot) for slot in _SLOTS]
    checkpoints = sorted(filter(None, found), key=_find_position)
    store = CheckpointStore(folder.checkpoints)
    with translate_storage_errors(folder.checkpoints):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
    for checkpoint in checkpoints:
        store.write(checkpoint.parts, checkpoint.values)
    return len(checkpoints)


def _read_slot(path: Path) -> Checkpoint | None:
    try:
        return read_checkpoint(path)
    except DamagedCheckpointError:  # missing, or its process was killed while it was overwritten
        return None


def _find_position(checkpoint: Checkpoint) -> tuple[int, int]:
    state = checkpoint.values["state"]
    return state["epoch"], state["step"]
