"""One training run from data to registered model, logged to MLflow."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from trialrun.checkpoint import run_folder
from trialrun.checkpoint.run_folder import RunFolder, choose_root, create_run_folder
from trialrun.checkpoint.store import Checkpoint
from trialrun.distributed import SINGLE_PROCESS, Ranks, join_ranks
from trialrun.engine import early_stopping
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.early_stopping import EarlyStopping, EpochStatus, PrunedError
from trialrun.engine.memory.batch_trial import name_fitting_batch
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import connect_client
from trialrun.models import directory, weights
from trialrun.models.directory import ModelDescription
from trialrun.registry import LoggedModel, create_model, register_version, upload_model
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.training.data import PreparedData, prepare_data
from trialrun.runs.training.environment import FOLDER_TAG
from trialrun.runs.training.logging import (
    collect_resolved_params,
    log_best_epoch,
    log_epoch,
    log_evaluation_fault,
    log_start,
    log_stop,
    log_validation,
)
from trialrun.runs.training.model_card import format_model_card
from trialrun.runs.training.parts_report import PartsReport
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.result import TrainResult
from trialrun.runs.training.resumption.checkpoints import (
    RunCheckpoints,
    restore_progress,
    restore_session,
)
from trialrun.runs.training.resumption.identity import (
    check_identity,
    describe_identity,
    describe_inexactness,
    use_recorded_threads,
)
from trialrun.runs.training.resumption.progress import RunProgress
from trialrun.runs.training.session import (
    DurationForecast,
    TrainingSession,
    resolve_rank_compute,
    start_session,
)
from trialrun.runs.training.step_monitor import StepMonitor
from trialrun.serving.package import add_serving_files
from trialrun.tracking import TrackedRun, open_nested_run, open_run, truncate_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedRun:
    """Options of a run that is nested below a parent run, such as a trial of a search.

    Its callback may raise `PrunedError` after an epoch: the run then ends without a model.
    """

    parent_run_id: str
    experiment_id: str
    name: str
    tags: Mapping[str, str]
    data: PreparedData
    keeps_model: Callable[[TrainResult], bool]  # whether to log the model


@dataclass(frozen=True, slots=True)
class ResumedRun:
    """An interrupted run to continue; `checkpoint` is None if it was stopped before the first."""

    run_id: str
    folder: RunFolder
    checkpoint: Checkpoint | None


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
    to MLflow; all ranks return its result.

    Raises:
        TrialrunError: Training failed (see its subclasses); the run's status is then FAILED.
        RunInterruptedError: A signal arrived; the run's status is then KILLED.
    """
    callback = callback or NoOpCallback()
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
    folder = resumed.folder if resumed else _create_folder(plan)
    with open_nested_run(
        connect_client(),
        parent_run_id=nested.parent_run_id,
        experiment_id=nested.experiment_id,
        name=nested.name,
        tags={**_build_tags(folder), **nested.tags},
    ) as run:
        folder.write_owner(run_id=run.run_id)
        callback.on_run_start(run.name, run.run_id)
        training = _TrainingRun(
            plan, run, nested.data, compute, SINGLE_PROCESS, callback, folder, nested
        )
        result = training.train(resumed.checkpoint if resumed else None)
    folder.delete()
    return result


def _train_tracked(
    plan: TrainPlan,
    compute: ComputeConfig,
    ranks: Ranks,
    callback: RunCallback,
    resumed: ResumedRun | None,
) -> TrainResult:
    config = plan.config
    folder = resumed.folder if resumed else _create_folder(plan)
    with open_run(
        connect_client(),
        experiment=config.experiment,
        name=config.run_name,
        tags=_build_tags(folder),
        run_id=resumed.run_id if resumed else None,
    ) as run:
        folder.write_owner(run_id=run.run_id)
        callback.on_run_start(run.name, run.run_id)
        data = prepare_data(plan, callback)
        training = _TrainingRun(plan, run, data, compute, ranks, callback, folder)
        result = training.train(resumed.checkpoint if resumed else None)
    folder.delete()
    return result


def _train_untracked(plan: TrainPlan, compute: ComputeConfig, ranks: Ranks) -> None:
    """Train as a rank above 0: it takes part in checkpoints, and logs and writes nothing."""
    session = start_session(plan, prepare_data(plan, NoOpCallback()), compute, ranks)
    checkpoints = _start_checkpoints(session, ranks.broadcast_object(None), None, {}, plan)
    monitor = StepMonitor(checkpoints)
    for _ in session.epochs(monitor.on_step, checkpoints.progress.stopping):
        pass


def _create_folder(plan: TrainPlan) -> RunFolder:
    import mlflow

    root = choose_root(plan.config.checkpoint_dir, mlflow.get_tracking_uri())
    return create_run_folder(root, {"settings": plan.config.params(), "cwd": str(Path.cwd())})


def _build_tags(folder: RunFolder) -> dict[str, str]:
    return {
        "trialrun.version": version("trialrun"),
        FOLDER_TAG: str(Path.cwd()),
        run_folder.FOLDER_TAG: str(folder.path),
    }


def _start_checkpoints(
    session: TrainingSession,
    checkpoint: Checkpoint | None,
    folder: RunFolder | None,
    identity: Mapping[str, Any],
    plan: TrainPlan,
) -> RunCheckpoints:
    """Restore a checkpoint, if there is one, and prepare to take the next ones."""
    if checkpoint is None:
        progress = RunProgress(EarlyStopping(plan.config))
    else:
        progress = restore_progress(session, checkpoint)
        restore_session(session, checkpoint)
    return RunCheckpoints(folder, session, progress, identity, plan.config.checkpoint_minutes)


@dataclass(slots=True)
class _TrainingRun:
    """A run in progress and its parts; rank 0 has it."""

    plan: TrainPlan
    run: TrackedRun
    data: PreparedData
    compute: ComputeConfig
    ranks: Ranks
    callback: RunCallback
    folder: RunFolder
    nested: NestedRun | None = None
    checkpoints: RunCheckpoints | None = None  # None until the network is built

    @property
    def progress(self) -> RunProgress:
        """The progress so far."""
        if self.checkpoints is None:
            return RunProgress(EarlyStopping(self.plan.config))
        return self.checkpoints.progress

    def train(self, checkpoint: Checkpoint | None) -> TrainResult:
        """Train, from `checkpoint` if there is one; log the result and the model."""
        try:
            description = self._train_epochs(checkpoint)
            self._check_best_loss()
        except (RunInterruptedError, KeyboardInterrupt):
            self._save_interrupted()
            self._log_abort("KILLED", early_stopping.KILLED)
            raise
        except PrunedError:
            result = self._build_result("FINISHED", early_stopping.PRUNED)
            self._log_stop(result)
            return result
        except NonFiniteLossError:
            self._log_abort("FAILED", early_stopping.NON_FINITE_LOSS)
            raise
        return self._log_outcome(description)

    def _train_epochs(self, checkpoint: Checkpoint | None) -> ModelDescription:
        identity = self._check_identity(checkpoint)
        log_start(self.run, self.plan, self.data, self.compute, is_resumed=checkpoint is not None)
        session = start_session(
            self.plan, self.data, self.compute, self.ranks, self.callback.on_note
        )
        resolved = collect_resolved_params(session.state, self.plan.config)
        self.run.log_params({**resolved, **session.initial_params})
        checkpoints = _start_checkpoints(
            session, self.ranks.broadcast_object(checkpoint), self.folder, identity, self.plan
        )
        self.checkpoints = checkpoints
        if checkpoint is not None:
            self._report_resumption(session)
        parts = PartsReport(session, self.run, self.progress.events, self.callback.on_note)
        monitor = StepMonitor(checkpoints, DurationForecast(session, self.callback), parts)
        statuses = session.epochs(monitor.on_step, checkpoints.progress.stopping)
        if self.nested is None:  # a search proposes smaller batches itself
            statuses = name_fitting_batch(statuses, session.state, self.plan.config, self.ranks)
        for status in statuses:
            self._log_epoch(status, session)
            checkpoints.save(in_epoch=False)
            self.callback.on_epoch_end(status, self.plan.config.epochs)
        checkpoints.close()
        return session.description

    def _check_identity(self, checkpoint: Checkpoint | None) -> dict[str, Any]:
        """Return what identifies settings and data, after comparing it with a checkpoint's."""
        if checkpoint is None:
            return describe_identity(self.plan, self.data, self.compute)
        then = checkpoint.values["identity"]
        use_recorded_threads(then)
        identity = describe_identity(self.plan, self.data, self.compute)
        check_identity(then, identity)
        if note := describe_inexactness(then, identity):
            self.callback.on_note(note)
        return identity

    def _report_resumption(self, session: TrainingSession) -> None:
        """Note and record where the run continues."""
        state, stop_reason = session.state, self.progress.stop_reason
        where = (
            f"the end of training ({stop_reason})"
            if stop_reason
            else f"epoch {state.epoch + 1}, step {state.step + 1}"
        )
        self.callback.on_note(f"resumed at {where}")
        self.progress.events.add("resumed", epoch=state.epoch + 1, step=state.step)

    def _log_epoch(self, status: EpochStatus, session: TrainingSession) -> None:
        timestamp_ms = log_epoch(self.run, status)
        self.progress.add_epoch(status, timestamp_ms, session.state.inference_model().state_dict())
        self._report_fault(status)

    def _save_interrupted(self) -> None:
        """Save the state at which a signal stopped training, if it is between two steps.

        Errors are ignored: the checkpoint before remains, and the run ends as KILLED.
        """
        if self.checkpoints is not None:
            with suppress(TrialrunError):
                self.checkpoints.save_interrupted()

    def _log_abort(self, status: str, stop_reason: str) -> None:
        """Log why training was aborted; ignore tracking errors, which would hide the cause."""
        with suppress(TrialrunError):
            self._log_stop(self._build_result(status, stop_reason))

    def _log_stop(self, result: TrainResult) -> None:
        seconds = None if self.checkpoints is None else self.checkpoints.training_seconds
        log_stop(self.run, self.progress.events, result, seconds)

    def _report_fault(self, status: EpochStatus) -> None:
        """Log an evaluation fault of the epoch; note only the first one of the run."""
        fault = status.result.evaluation_fault
        if fault is None:
            return
        log_evaluation_fault(self.run, self.progress.events, status)
        if not self.progress.has_noted_fault:
            self.callback.on_note(f"epoch {status.result.epoch}: {fault}")
        self.progress.has_noted_fault = True

    def _check_best_loss(self) -> None:
        """Raise unless the best validation loss is finite.

        Only validation checks the weights after the last step.
        """
        if not isfinite(self.progress.stopping.best_loss):
            raise NonFiniteLossError("no epoch had a finite validation loss")

    def _build_result(self, status: str, stop_reason: str) -> TrainResult:
        best = self.progress.best
        return TrainResult(
            run_id=self.run.run_id,
            status=status,
            stop_reason=stop_reason,
            stopped_epoch=self.progress.stopped_epoch,
            best_epoch=best.status.best_epoch if best else 0,
            best_valid_loss=best.status.best_valid_loss if best else float("nan"),
            metrics=best.status.result.metrics() if best else {},
        )

    def _log_outcome(self, description: ModelDescription) -> TrainResult:
        """Log the result and, unless `nested` discards it, the model."""
        best = self.progress.best
        assert best is not None
        content = weights.serialize_state(best.weights)
        stop_reason = self.progress.stop_reason or early_stopping.COMPLETED
        result = replace(
            self._build_result("FINISHED", stop_reason),
            weights_sha256=weights.hash_weights(content),
        )
        self._log_stop(result)
        log_validation(self.run, best.status, self.plan, self.data)
        fault = best.status.result.evaluation_fault
        self.run.set_tags(
            {"mlflow.note.content": format_model_card(self.plan, result, self.data, fault)}
        )
        if self.nested and not self.nested.keeps_model(result):
            return result
        model = self._log_model(description, content, result)
        log_best_epoch(self.run, best.status, best.timestamp_ms, model.model_id, self.data)
        return self._register(model, replace(result, model_uri=model.uri))

    def _register(self, model: LoggedModel, result: TrainResult) -> TrainResult:
        """Register the model if the plan names a registered model."""
        name = self.plan.config.register_as
        if name is None:
            return result
        version_number = register_version(
            self.run.client, model, name=name, run_id=self.run.run_id, tags=self._model_tags(result)
        )
        return replace(result, model_name=name, model_version=version_number)

    def _model_tags(self, result: TrainResult) -> dict[str, str]:
        metrics = {name: f"{value:.6g}" for name, value in result.metrics.items()}
        return metrics | {
            "weights_sha256": str(result.weights_sha256),
            "train_digest": truncate_digest(self.data.train.scan),
            "valid_digest": truncate_digest(self.data.valid.scan),
            "best_epoch": str(result.best_epoch),
            "stop_reason": result.stop_reason,
        }

    def _log_model(
        self, description: ModelDescription, content: bytes, result: TrainResult
    ) -> LoggedModel:
        run = self.run
        model = create_model(
            run.client,
            experiment_id=run.experiment_id,
            run_id=run.run_id,
            params=self.plan.config.params(),
            tags=self._model_tags(result),
        )
        with scratch_directory() as scratch:
            folder = scratch / "model"
            directory.write_model_directory(folder, description, content)
            add_serving_files(
                folder, description.classes, model_id=model.model_id, run_id=run.run_id
            )
            upload_model(run.client, model, folder, run_id=run.run_id, step=result.best_epoch)
        return model
