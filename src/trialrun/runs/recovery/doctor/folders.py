"""The run folders of this machine: unsent records, damaged checkpoints, and what they are kept for.

A locked folder belongs to a process that works on its run; its content is not read.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.checkpoint.run_folder import FOLDER_TAG, RunFolder
from trialrun.checkpoint.store import CheckpointStore
from trialrun.errors import StorageError, TrackingError, summarize_error
from trialrun.files import measure_bytes
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.runs.recovery.doctor.findings import Finding, report_note, report_problem
from trialrun.tracking import DELETED, count_unsent, find_run, has_journal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RECORDS, CHECKPOINTS, FOLDERS = "unsent records", "checkpoints", "run folders"
UNKNOWN, MISSING = "UNKNOWN", "MISSING"  # beside MLflow's statuses
_FINISHED = "FINISHED"
_UNFINISHED, _DONE = "of unfinished runs", "of finished runs"
_NO_RUN = "whose run was never created"
_OTHER_STORE, _NOT_IN_STORE = "of another store", "of no run in this store"
_NOT_LOOKED_UP = "of runs that were not looked up"
_FOLDER_REMEDIES = {
    _UNFINISHED: "`trialrun resume RUN_ID` continues a run, `trialrun sync` sends its records.",
    _DONE: "`trialrun doctor --fix` deletes them.",
    _NO_RUN: "`trialrun doctor --fix` deletes them.",
    _OTHER_STORE: "Set MLFLOW_TRACKING_URI to their store to see more.",
    _NOT_LOOKED_UP: "",
    _NOT_IN_STORE: "Delete what you do not need.",
}
_MAX_IDS = 100  # in one search
_NEW_SECONDS = 300.0  # in which the process of a new folder creates the run


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderState:
    """The state of a run's folder that no process uses.

    `status` is that of the run in the store: one of MLflow's, `deleted`, MISSING or UNKNOWN.
    `other_store` names the store that the run is in, if it is not the present one. `damaged` says
    what is wrong with checkpoints, and `journal_error` with the journal.
    """

    folder: RunFolder
    run_id: str | None
    experiment_id: str | None
    status: str
    other_store: str | None
    num_unsent: int
    journal_error: str
    num_checkpoints: int
    damaged: Sequence[str]
    num_bytes: int
    largest_checkpoint_bytes: int
    has_no_run: bool = False  # its process was killed before it created the run

    @property
    def label(self) -> str:
        """The run's id, or the folder's name."""
        return self.run_id or self.folder.path.name

    @property
    def is_done(self) -> bool:
        """Whether no run needs the folder: it has finished and is stored, or never existed."""
        return self.has_no_run or (
            self.status == _FINISHED
            and self.other_store is None
            and not self.num_unsent
            and not self.journal_error
        )


def inspect_folders(
    client: "MlflowClient | None", folders: Sequence[RunFolder], store: str
) -> list[FolderState]:
    """Return the states of the folders that no process uses.

    Args:
        client: The client of the store; None if the store cannot be used.
        folders: Run folders.
        store: The store's name, as `name_store` returns it.

    Raises:
        TrackingError: The store fails.
    """
    idle = [folder for folder in folders if not is_in_use(folder)]
    statuses = {} if client is None else _read_statuses(client, idle)
    default = UNKNOWN if client is None else MISSING
    states = [
        _inspect(folder, statuses.get(folder.run_id or "", default), store)
        for folder in idle
        if folder.path.is_dir()  # a run that has just finished has deleted it
    ]
    return [replace(state, has_no_run=_has_no_run(client, state, store)) for state in states]


def is_in_use(folder: RunFolder) -> bool:
    """Whether a process works on the run; true also if this user may not find out."""
    try:
        return folder.is_locked()
    except OSError:
        return True


def _inspect(folder: RunFolder, status: str, store: str) -> FolderState:
    owner = folder.read_owner()
    owner_store = owner.get("tracking_uri", store)
    num_unsent, journal_error = 0, ""
    if has_journal(folder.journal):
        try:
            num_unsent = count_unsent(folder.journal)
        except StorageError as error:
            journal_error = summarize_error(error)
    checkpoints = CheckpointStore(folder.checkpoints)
    paths = checkpoints.list_paths()
    return FolderState(
        folder=folder,
        run_id=owner.get("run_id"),
        experiment_id=owner.get("experiment_id"),
        status=status if owner_store == store else UNKNOWN,
        other_store=None if owner_store == store else owner_store,
        num_unsent=num_unsent,
        journal_error=journal_error,
        num_checkpoints=len(paths),
        damaged=[problem for _, problem in checkpoints.find_damaged()],
        num_bytes=measure_bytes(folder.path),
        largest_checkpoint_bytes=max(map(measure_bytes, paths), default=0),
    )


def _has_no_run(client: "MlflowClient | None", state: FolderState, store: str) -> bool:
    """Whether an old folder is as it was created, and no run of the store names it."""
    if client is None or state.run_id or state.num_unsent or state.num_checkpoints:
        return False
    age_seconds = time.time() - state.folder.settings_path.stat().st_mtime
    is_of_store = state.folder.read_settings().get("tracking_uri") == store
    if state.journal_error or age_seconds < _NEW_SECONDS or not is_of_store:
        return False
    path = str(state.folder.path.absolute()).replace("'", "\\'")
    with translate_tracking_errors("runs cannot be read"):
        experiments = [item.experiment_id for item in client.search_experiments()]
        return not client.search_runs(experiments, f"tags.`{FOLDER_TAG}` = '{path}'", max_results=1)


def _read_statuses(client: "MlflowClient", folders: Sequence[RunFolder]) -> dict[str, str]:
    """Return the statuses of the folders' runs by id; runs that the store lacks are left out."""
    ids: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        if folder.run_id is not None:
            ids[str(folder.read_owner().get("experiment_id", ""))].append(folder.run_id)
    statuses = {}
    with translate_tracking_errors("runs cannot be read"):
        for run_id in ids.pop("", []):  # of a run that was resumed on another machine
            if run := find_run(client, run_id):
                statuses[run_id] = _get_status(run)
        for experiment_id, run_ids in ids.items():
            for start in range(0, len(run_ids), _MAX_IDS):
                runs = _search_runs(client, experiment_id, run_ids[start : start + _MAX_IDS])
                statuses |= {str(run.info.run_id): _get_status(run) for run in runs}
    return statuses


def _search_runs(client: "MlflowClient", experiment_id: str, run_ids: list[str]) -> "list[Run]":
    from mlflow.entities import ViewType

    quoted = ", ".join(f"'{run_id}'" for run_id in run_ids)
    query = f"attributes.run_id IN ({quoted})"
    runs: list[Run] = client.search_runs([experiment_id], query, ViewType.ALL)
    return runs


def _get_status(run: "Run") -> str:
    return DELETED if run.info.lifecycle_stage == DELETED else str(run.info.status)


def judge_folders(states: Sequence[FolderState]) -> Iterator[Finding]:
    """Yield the findings about the folders."""
    for state in states:
        yield from _judge_records(state)
        yield from _judge_checkpoints(state)
    yield from _summarize(states)


def _judge_records(state: FolderState) -> Iterator[Finding]:
    if state.journal_error:
        remedy = "Restore the file from a backup, then run `trialrun sync`."
        yield report_problem(
            RECORDS, state.journal_error, remedy, StorageError, run_id=state.run_id
        )
    if not state.num_unsent:
        return
    text = f"{state.num_unsent} of run {state.label}, {_describe_age(state.folder)} old"
    if state.other_store is not None:
        remedy = f"Set MLFLOW_TRACKING_URI={state.other_store}, then run `trialrun sync`."
        yield report_note(RECORDS, f"{text}, for another store", remedy, run_id=state.run_id)
    elif state.status == DELETED:
        remedy = f"Restore the run: `mlflow runs restore --run-id {state.run_id}`. Or delete "
        remedy += f"{state.folder.path}."
        yield report_problem(
            RECORDS, f"{text}, which was deleted", remedy, TrackingError, run_id=state.run_id
        )
    else:
        remedy = "`trialrun sync`, or `trialrun doctor --fix`, sends them."
        yield report_problem(
            RECORDS, text, remedy, TrackingError, run_id=state.run_id, is_fixable=True
        )


def _describe_age(folder: RunFolder) -> str:
    """Return the time since the last record, in the largest suitable unit."""
    newest = max(path.stat().st_mtime for path in folder.journal.glob("*.jsonl"))
    seconds = max(time.time() - newest, 0)
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    for name, length in units:
        if seconds >= 2 * length:
            return f"{int(seconds / length)} {name}"
    return f"{int(seconds)} seconds"


def _judge_checkpoints(state: FolderState) -> Iterator[Finding]:
    if not state.damaged or state.status == _FINISHED:
        return
    text = f"run {state.label}: {state.damaged[-1]}"
    if len(state.damaged) < state.num_checkpoints:
        remedy = "`trialrun doctor --fix` deletes it; `trialrun resume` uses the intact one."
        yield report_problem(
            CHECKPOINTS, text, remedy, StorageError, run_id=state.run_id, is_fixable=True
        )
        return
    remedy = f"No intact one is left: train again, then delete {state.folder.path}."
    yield report_problem(CHECKPOINTS, text, remedy, StorageError, run_id=state.run_id)


def _summarize(states: Sequence[FolderState]) -> Iterator[Finding]:
    """Yield notes about what the folders keep."""
    groups: dict[tuple[str, Path], list[FolderState]] = defaultdict(list)
    for state in states:
        groups[_classify(state), state.folder.path.parent].append(state)
    for (group, parent), members in groups.items():
        size = sum(state.num_bytes for state in members) / 1e6
        place = parent if len(members) > 1 else members[0].folder.path
        yield report_note(
            FOLDERS,
            f"{len(members)} {group}, {size:.1f} MB: {place}",
            _FOLDER_REMEDIES[group],
            is_fixable=group in (_DONE, _NO_RUN),
        )


def _classify(state: FolderState) -> str:
    if state.other_store is not None:
        return _OTHER_STORE
    if state.has_no_run:
        return _NO_RUN
    if state.is_done:
        return _DONE
    if state.status in (MISSING, DELETED) and not state.num_unsent:
        return _NOT_IN_STORE
    return _NOT_LOOKED_UP if state.status == UNKNOWN else _UNFINISHED
