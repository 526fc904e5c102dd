"""Continues an interrupted training run in the same MLflow run."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.checkpoint.run_folder import FOLDER_TAG as RUN_FOLDER_TAG
from trialrun.checkpoint.run_folder import (
    RunFolder,
    choose_root,
    create_run_folder,
    find_run_folder,
    list_default_roots,
    sweep_deleted,
)
from trialrun.checkpoint.store import Checkpoint, CheckpointStore
from trialrun.config.resume import ResumeConfig
from trialrun.distributed import read_ranks
from trialrun.errors import DataError, InvalidParameterError, TrialrunError
from trialrun.mlflow_client import connect_client, resolve_uris
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.inspection.repetition import load_training_settings, resolve_paths
from trialrun.runs.inspection.run_reader import RecordedRun, read_run
from trialrun.runs.recovery.finished import read_result, read_timestamps
from trialrun.runs.recovery.interrupted import find_last_interrupted
from trialrun.runs.recovery.sync import clean_up_finished
from trialrun.runs.training.environment import FOLDER_TAG
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.resumption.artifacts import fetch_checkpoints
from trialrun.tracking import describe_project_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

RESUMED_TAG = "trialrun.resumed_run"  # of the run that `mlflow run . -e resume` opens
_FINISHED = "FINISHED"
STUDY_TAG = "study"  # of a search and of its trials


def resume_run(
    run_id: str | None,
    config: ResumeConfig,
    open_callback: Callable[[], AbstractContextManager[RunCallback]] | None = None,
) -> TrainResult:
    """Continue the run `run_id` and return its result; None is the newest interrupted run.

    A finished run is left as it is, and its result is returned. Under torchrun every rank calls
    this.

    Raises:
        TrackingError: The run does not exist, or is not a training run.
        InvalidParameterError: Settings, model files or the number of ranks differ from the run's.
        InvalidDatasetError: The images have changed.
        StorageError: Another process works on the run, or no checkpoint is intact.
    """
    with open_callback() if open_callback else nullcontext(NoOpCallback()) as callback:
        if folder := _find_offline(run_id, config):
            plan = _plan_recorded(folder.read_settings(), config)
            return _continue(folder.path.name, folder, plan, dict, callback)
        client = connect_client()
        original = read_run(client, run_id or find_last_interrupted(client))
        if is_first := read_ranks(os.environ).is_first:
            describe_project_run(
                client, f"resume of {original.name}", {RESUMED_TAG: original.run_id}
            )
        _refuse_search(original)
        folder = find_folder(client, original, config)
        if original.status == _FINISHED:
            callback.on_note(f"run {original.run_id} has finished: there is nothing to resume")
            if folder is not None and is_first:
                clean_up_finished(folder, client)
            if recorded := original.tags.get(RUN_FOLDER_TAG):
                sweep_deleted(Path(recorded).parent)
            return read_result(client, original)
        if folder is None and is_first:
            folder = _create_folder(client, original, config)
        plan = plan_resumed(client, original, folder, config)
        read_known_metrics = partial(read_timestamps, client, original.run_id)
        return _continue(original.run_id, folder, plan, read_known_metrics, callback)


def _find_offline(run_id: str | None, config: ResumeConfig) -> RunFolder | None:
    """Return the folder of a run that is not in the tracking store yet; None for other runs."""
    import mlflow

    resolve_uris()
    roots = (
        [Path(config.checkpoint_dir).expanduser()]
        if config.checkpoint_dir
        else list_default_roots(mlflow.get_tracking_uri())
    )
    folders = (find_run_folder(root, run_id) for root in roots if run_id is not None)
    found = next((folder for folder in folders if folder is not None), None)
    return found if found is not None and found.run_id == found.path.name else None


def _refuse_search(original: RecordedRun) -> None:
    study = original.tags.get(STUDY_TAG)
    if study is not None:
        raise InvalidParameterError(
            f"run {original.run_id} belongs to the search {study}",
            f"Continue the search: `trialrun search --study {study}` with its other settings.",
        )


def _continue(
    run_id: str,
    folder: RunFolder | None,
    plan: TrainPlan,
    read_known_metrics: Callable[[], Mapping[tuple[str, int], int]],
    callback: RunCallback,
) -> TrainResult:
    """Train; rank 0 has the folder of the run, and sends the checkpoint to the other ranks."""
    from trialrun.runs.training.run import ResumedRun, train_run

    if folder is None or not read_ranks(os.environ).is_first:
        return train_run(plan, callback)
    # Read once the ranks are connected: an error then ends the others too.
    read_checkpoint = partial(_read_checkpoint, folder, callback)
    resumed = ResumedRun(run_id, folder, read_checkpoint, read_known_metrics())
    return train_run(plan, callback, resumed=resumed)


def _read_checkpoint(folder: RunFolder, callback: RunCallback) -> Checkpoint | None:
    """Return the newest intact checkpoint; delete damaged ones, with a note about each."""
    store = CheckpointStore(folder.checkpoints)
    with folder.lock():
        for problem in store.delete_damaged():
            callback.on_note(f"{problem}: the one before it is used")
        checkpoint = store.read_newest()
    if checkpoint is None:
        callback.on_note("the run has no checkpoint yet: training starts from its beginning")
    return checkpoint


def find_folder(
    client: "MlflowClient", original: RecordedRun, config: ResumeConfig
) -> RunFolder | None:
    """Return the run's folder on this machine; None without one."""
    if config.checkpoint_dir is not None:
        return find_run_folder(Path(config.checkpoint_dir).expanduser(), original.run_id)
    if recorded := original.tags.get(RUN_FOLDER_TAG):
        folder = RunFolder(Path(recorded))
        if folder.read_settings():
            return folder
    roots = list_default_roots(client.tracking_uri)
    folders = (find_run_folder(root, original.run_id) for root in roots)
    return next((folder for folder in folders if folder is not None), None)


def _create_folder(
    client: "MlflowClient", original: RecordedRun, config: ResumeConfig
) -> RunFolder:
    """Create a folder on this machine for a run of another one, or with a deleted folder.

    Raises:
        TrackingError: The run has not recorded its settings yet.
    """
    settings = load_training_settings(client, original)
    root = choose_root(config.checkpoint_dir, client.tracking_uri)
    values = {"settings": settings, "cwd": original.tags.get(FOLDER_TAG)}
    folder = create_run_folder(root, values)
    folder.write_owner(run_id=original.run_id)
    fetch_checkpoints(client, original.run_id, folder)
    return folder


def plan_resumed(
    client: "MlflowClient", original: RecordedRun, folder: RunFolder | None, config: ResumeConfig
) -> TrainPlan:
    """Plan with the run's own settings and precision.

    Without a folder that holds the settings, the store's record of them is used.

    Raises:
        TrialrunError: The data or the model is not on this machine.
    """
    recorded = {} if folder is None else folder.read_settings()
    if not recorded:
        settings = load_training_settings(client, original)
        recorded = {"settings": settings, "cwd": original.tags.get(FOLDER_TAG)}
    extra = {}
    precision = original.params.get("resolved_precision")
    if precision and _has_state(folder):  # else training starts again, with the settings as given
        extra["precision"] = precision
    plan = _plan_recorded(recorded, config, extra)
    return replace(plan, recorded_weights=original.params.get("resolved_weights"))


def _has_state(folder: RunFolder | None) -> bool:
    """Whether the folder holds a training state, damaged or not; ranks above 0 have no folder."""
    if folder is None:
        return True
    stores = (CheckpointStore(path) for path in (folder.checkpoints, folder.non_finite))
    return any(store.list_paths() for store in stores)


def _plan_recorded(
    recorded: Mapping[str, Any], config: ResumeConfig, extra: Mapping[str, str] | None = None
) -> TrainPlan:
    """Plan with settings as in a run's folder; only the places of the images may be others.

    Raises:
        TrialrunError: The data or the model is not on this machine.
    """
    places = {name: getattr(config, name) for name in ("train_data", "valid_data")}
    settings = {
        **resolve_paths(recorded.get("cwd"), recorded.get("settings", {})),
        **{name: place for name, place in places.items() if place is not None},
        **(extra or {}),
    }
    try:
        return plan_training(settings)
    except TrialrunError as error:
        moved = "Give data that has moved with --train-data and --valid-data. "
        error.hint = f"{error.hint} {moved if isinstance(error, DataError) else ''}"
        raise
