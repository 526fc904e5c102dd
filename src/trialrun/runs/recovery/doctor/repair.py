"""The repairs of `trialrun doctor --fix`; none of them touches a run with a live process."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.checkpoint.store import CheckpointStore
from trialrun.engine.early_stopping import KILLED
from trialrun.errors import StorageError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.runs.recovery.doctor.folders import FolderState
from trialrun.runs.recovery.doctor.stale_runs import RUNNING, StaleRun
from trialrun.runs.recovery.sync import NOT_SENT, sync_folders
from trialrun.tracking import HEARTBEAT_TAG, find_failure, has_journal, name_store

if TYPE_CHECKING:
    from mlflow import MlflowClient


def send_records(folders: Sequence[RunFolder]) -> Iterator[str]:
    """Send the unsent records of the runs; yield what was done.

    Raises:
        TrackingError: The store does not answer.
    """
    for row in sync_folders(list(folders)):
        if row.num_sent:
            yield f"run {row.run_id}: {row.num_sent} records sent"
        if row.outcome == NOT_SENT:
            yield f"run {row.run_id}: records could not be sent: {row.reason}"


def end_stale_runs(client: "MlflowClient", runs: Sequence[StaleRun]) -> Iterator[str]:
    """End runs without a live process, unless they were resumed; yield what was done.

    Raises:
        TrackingError: The store fails.
    """
    for run in runs:
        try:
            with _hold_lock(run.folder), translate_tracking_errors(f"{run.run_id} cannot be ended"):
                status = _end_run(client, run)
        except StorageError:  # a process works on it
            continue
        if status is not None:
            yield f"run {run.run_id} ({run.name}): ended as {status}, because {run.describe()}"


def _hold_lock(folder: RunFolder | None) -> AbstractContextManager[None]:
    return nullcontext() if folder is None else folder.lock()


def _end_run(client: "MlflowClient", run: StaleRun) -> str | None:
    """End a run; return its status, or None if it has been ended or resumed."""
    from mlflow.entities import RunTag

    current = client.get_run(run.run_id)
    heartbeat = current.data.tags.get(HEARTBEAT_TAG)
    if current.info.status != RUNNING or heartbeat != run.heartbeat.to_tag():
        return None
    error = _find_recorded_error(run.folder)
    tags = {"error": error} if error else _describe_kill(run)
    client.log_batch(run.run_id, tags=[RunTag(name, text) for name, text in tags.items()])
    if run.folder is not None and run.folder.run_id is None:
        _write_owner(client, run, run.folder)
    status = "FAILED" if error else "KILLED"
    client.set_terminated(run.run_id, status, _find_end_ms(run))
    return status


def _write_owner(client: "MlflowClient", run: StaleRun, folder: RunFolder) -> None:
    """Complete the folder of a process that was killed just after it had created the run."""
    store = name_store(client.tracking_uri)
    folder.write_owner(run_id=run.run_id, experiment_id=run.experiment_id, tracking_uri=store)


def _find_recorded_error(folder: RunFolder | None) -> str | None:
    if folder is None or not has_journal(folder.journal):
        return None
    with suppress(StorageError):  # it is damaged
        return find_failure(folder.journal)
    return None


def _describe_kill(run: StaleRun) -> dict[str, str]:
    return {"stop_reason": KILLED, "error": f"{run.describe()}; ended by `trialrun doctor --fix`"}


def _find_end_ms(run: StaleRun) -> int:
    """Return when the process last showed that it lived, else the present time."""
    seconds = time.time()
    if run.folder is not None:
        files = run.folder.journal.glob("*.jsonl")
        seconds = max((path.stat().st_mtime for path in files), default=seconds)
    return round(1000 * max(seconds, run.heartbeat.time))


def repair_folders(states: Sequence[FolderState]) -> Iterator[str]:
    """Delete damaged checkpoints beside an intact one, and folders of no use; yield what was done.

    The last checkpoint of a run is never deleted.
    """
    for state in states:
        try:
            with state.folder.lock():
                yield from _repair_folder(state)
        except StorageError:  # a process works on it
            continue


def _repair_folder(state: FolderState) -> Iterator[str]:
    if state.has_no_run:
        state.folder.delete()
        yield f"folder {state.folder.path} deleted, its run was never created"
    elif state.is_done:
        state.folder.delete()
        yield f"run {state.label}: folder {state.folder.path} deleted, the store has everything"
    elif 0 < len(state.damaged) < state.num_checkpoints:
        for problem in CheckpointStore(state.folder.checkpoints).delete_damaged():
            yield f"run {state.label}: deleted {problem}"
