"""One training run from data to registered model, logged to MLflow."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.checkpoint.run_folder import RunFolder, choose_root, create_run_folder
from trialrun.checkpoint.store import Checkpoint
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks, join_ranks
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, is_outage, resolve_uris
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.signals import finish_step_on_signal
from trialrun.runs.training.environment import FOLDER_TAG
from trialrun.runs.training.execution import TrainingRun, identify_run, start_checkpoints
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.outcome.model_upload import HANDLERS
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.identity import read_recorded_weights
from trialrun.runs.training.resumption.step_monitor import StepMonitor
from trialrun.runs.training.session import (
    resolve_rank_compute,
    start_session,
)
from trialrun.runs.training.smoke_plan import make_smoke_tags
from trialrun.tracking import (
    JournalOptions,
    TrackedRun,
    name_store,
    open_nested_run,
    open_run,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedRun:
    """Options of a run that is nested below a parent run, such as a trial of a search.

    Its callback may raise `PrunedError` after an epoch: the run then ends without a model. The
    caller deletes its folder with `delete_run_data` once no run will continue it.
    """

    parent_run_id: str
    experiment_id: str
    name: str
    tags: Mapping[str, str]
    data: PreparedData
    keeps_model: Callable[[TrainResult], bool]  # whether to log the model


@dataclass(frozen=True, slots=True)
class ResumedRun:
    """An interrupted run to continue.

    `read_checkpoint` returns None if the run was stopped before the first one. `known_metrics` are
    as in `JournalOptions`. `precision` is that of the run; None leaves it to the plan.
    """

    run_id: str
    folder: RunFolder
    read_checkpoint: Callable[[], Checkpoint | None]
    known_metrics: Mapping[tuple[str, int], int] = field(default_factory=dict)
    precision: str | None = None


@isolate_torch_state()
def train_run(
    plan: TrainPlan,
    callback: RunCallback | None = None,
    *,
    nested: NestedRun | None = None,
    resumed: ResumedRun | None = None,
) -> TrainResult:
    """Train as `plan` says in an MLflow run; register the model if the plan names one.

    With `resumed`, that run is continued from its checkpoint. With several ranks, only rank 0 logs
    to MLflow, and only it needs `resumed`; all ranks return its result.

    Raises:
        TrialrunError: Training failed (see its subclasses); the run's status is then FAILED.
        RunInterruptedError: A signal arrived; the run's status is then KILLED.
    """
    callback = callback or NoOpCallback()
    if resumed is not None and resumed.precision is not None:  # whatever `auto` is now
        plan = replace(plan, config=replace(plan.config, precision=resumed.precision))
    compute = resolve_rank_compute(plan)
    if nested is not None:
        return _train_nested(plan, compute, callback, nested, resumed)
    with join_ranks(compute.device) as ranks:
        if ranks.is_first:
            return ranks.broadcast_object(_train_tracked(plan, compute, ranks, callback, resumed))
        _train_untracked(plan, compute, ranks)
        return ranks.broadcast_object(None)  # type: ignore[return-value] # returns rank 0's result


def _train_nested(
    plan: TrainPlan,
    compute: ComputeConfig,
    callback: RunCallback,
    nested: NestedRun,
    resumed: ResumedRun | None,
) -> TrainResult:
    checkpoint = resumed.read_checkpoint() if resumed else None
    identity = identify_run(
        plan, nested.data, compute, SINGLE_PROCESS, checkpoint, callback.on_note
    )
    client = _connect(plan.config)  # before a folder is created
    journal = _open_journal(plan.config, callback, resumed)
    with open_nested_run(
        client,
        parent_run_id=nested.parent_run_id,
        experiment_id=nested.experiment_id,
        name=nested.name,
        tags={**_build_tags(), **nested.tags},
        run_id=resumed.run_id if resumed else None,
        journal=journal,
    ) as run:
        callback.on_run_start(run.name, run.run_id)
        training = TrainingRun(
            plan,
            run,
            nested.data,
            identity,
            compute,
            SINGLE_PROCESS,
            callback,
            journal.folder,
            nested.keeps_model,
            is_trial=True,
        )
        return training.train(checkpoint)


def _train_tracked(
    plan: TrainPlan,
    compute: ComputeConfig,
    ranks: Ranks,
    callback: RunCallback,
    resumed: ResumedRun | None,
) -> TrainResult:
    config = plan.config
    checkpoint = resumed.read_checkpoint() if resumed else None
    if checkpoint is not None:
        recorded_weights = read_recorded_weights(checkpoint.values["identity"])
        plan = replace(plan, recorded_weights=recorded_weights)

    def prepare() -> tuple[PreparedData, dict[str, Any]]:
        data = prepare_data(plan, callback, ranks)
        return data, identify_run(plan, data, compute, ranks, checkpoint, callback.on_note)

    # Before a run is opened again: a refusal then leaves it as it is.
    prepared = prepare() if checkpoint else None
    client = _connect(config)  # before a folder is created
    journal = _open_journal(config, callback, resumed)
    with open_run(
        client,
        experiment=config.experiment,
        name=config.run_name,
        tags=_build_tags() | make_smoke_tags(config),
        run_id=resumed.run_id if resumed else None,
        journal=journal,
    ) as run:
        callback.on_run_start(run.name, run.run_id)
        data, identity = prepared or prepare()
        training = TrainingRun(plan, run, data, identity, compute, ranks, callback, journal.folder)
        result = training.train(checkpoint)
    _clean_up(journal.folder, run)
    return result


def _clean_up(folder: RunFolder, run: TrackedRun) -> None:
    """Delete the checkpoints of a finished run, and its folder once the store has all records."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    if run.is_drained:
        folder.delete()


def _connect(config: TrainConfig) -> "MlflowClient | None":
    """Return a client of the tracking store; None for an offline run.

    Raises:
        TrackingError: The store does not answer.
    """
    if config.offline:
        return None
    try:
        return connect_client()
    except TrackingError as error:
        if is_outage(error):
            error.hint += " With --offline, training needs no store until `trialrun sync`."
        raise


def _open_journal(
    config: TrainConfig, callback: RunCallback, resumed: ResumedRun | None
) -> JournalOptions:
    return JournalOptions(
        folder=resumed.folder if resumed else _create_folder(config),
        flush_seconds=config.flush_seconds,
        offline=config.offline,
        handlers=HANDLERS,
        note=callback.on_note,
        known_metrics=resumed.known_metrics if resumed else {},
    )


def _create_folder(config: TrainConfig) -> RunFolder:
    import mlflow

    resolve_uris()  # `mlflow run` starts this process in another folder than its own
    tracking_uri = mlflow.get_tracking_uri()
    root = choose_root(config.checkpoint_dir, tracking_uri)
    values = {
        "settings": config.params(),
        "cwd": str(Path.cwd()),
        "tracking_uri": name_store(tracking_uri),
    }
    return create_run_folder(root, values)


def _train_untracked(plan: TrainPlan, compute: ComputeConfig, ranks: Ranks) -> None:
    """Train as a rank above 0: it takes part in checkpoints, and logs and writes nothing."""
    session = start_session(plan, prepare_data(plan, NoOpCallback(), ranks), compute, ranks)
    checkpoints = start_checkpoints(session, ranks.broadcast_object(None), None, {}, plan)
    with finish_step_on_signal() as request:
        monitor = StepMonitor(request, checkpoints)
        for _ in monitor.watch_epochs():
            pass


def _build_tags() -> dict[str, str]:
    return {"trialrun.version": version("trialrun"), FOLDER_TAG: str(Path.cwd())}
