"""One training run from data to registered model, logged to MLflow."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from torch import Tensor

from trialrun.distributed import SINGLE_PROCESS, Ranks, join_ranks
from trialrun.engine import early_stopping
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.early_stopping import EpochStatus, PrunedError
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import connect_client
from trialrun.models import directory, weights
from trialrun.models.directory import ModelDescription
from trialrun.registry import LoggedModel, create_model, register_version, upload_model
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.signals import finish_step_on_signal
from trialrun.runs.training.data import PreparedData, prepare_data
from trialrun.runs.training.environment import FOLDER_TAG
from trialrun.runs.training.logging import (
    EventLog,
    collect_resolved_params,
    log_best_epoch,
    log_epoch,
    log_evaluation_fault,
    log_start,
    log_stop,
    log_validation,
)
from trialrun.runs.training.model_card import format_model_card
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.result import TrainResult
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


@isolate_torch_state()
def train_run(
    plan: TrainPlan, callback: RunCallback | None = None, *, nested: NestedRun | None = None
) -> TrainResult:
    """Train as `plan` says in an MLflow run; register the model if the plan names one.

    With several ranks, only rank 0 logs to MLflow; all ranks return its result.

    Raises:
        TrialrunError: Training failed (see its subclasses); the run's status is then FAILED.
        RunInterruptedError: A signal arrived; the run's status is then KILLED.
    """
    callback = callback or NoOpCallback()
    compute = resolve_rank_compute(plan)
    if nested is not None:
        with _open_nested_run(nested) as run:
            callback.on_run_start(run.name, run.run_id)
            return _train_to_end(plan, run, nested.data, compute, SINGLE_PROCESS, callback, nested)
    with join_ranks(compute.device) as ranks:
        if ranks.is_first:
            return ranks.broadcast_object(_train_tracked(plan, compute, ranks, callback))
        session = start_session(plan, prepare_data(plan, NoOpCallback()), compute, ranks)
        with finish_step_on_signal() as request:
            for _ in session.epochs(StepMonitor(request, ranks, compute.device).on_step):
                pass
        return ranks.broadcast_object(None)  # type: ignore[return-value] # returns rank 0's result


def _open_nested_run(nested: NestedRun) -> AbstractContextManager[TrackedRun]:
    return open_nested_run(
        connect_client(),
        parent_run_id=nested.parent_run_id,
        experiment_id=nested.experiment_id,
        name=nested.name,
        tags={**_build_tags(), **nested.tags},
    )


def _train_tracked(
    plan: TrainPlan, compute: ComputeConfig, ranks: Ranks, callback: RunCallback
) -> TrainResult:
    config = plan.config
    with open_run(
        connect_client(), experiment=config.experiment, name=config.run_name, tags=_build_tags()
    ) as run:
        callback.on_run_start(run.name, run.run_id)
        return _train_to_end(plan, run, prepare_data(plan, callback), compute, ranks, callback)


def _build_tags() -> dict[str, str]:
    return {"trialrun.version": version("trialrun"), FOLDER_TAG: str(Path.cwd())}


def _train_to_end(
    plan: TrainPlan,
    run: TrackedRun,
    data: PreparedData,
    compute: ComputeConfig,
    ranks: Ranks,
    callback: RunCallback,
    nested: NestedRun | None = None,
) -> TrainResult:
    log_start(run, plan, data, compute)
    return _TrainingRun(plan, run, data, compute, ranks, callback, nested).train()


@dataclass(slots=True)
class _BestCheckpoint:
    """The best epoch so far and its weights in CPU memory."""

    status: EpochStatus
    timestamp_ms: int
    state: dict[str, Tensor]


@dataclass(slots=True)
class _TrainingRun:
    """A run in progress: its parts, and its state after the last epoch."""

    plan: TrainPlan
    run: TrackedRun
    data: PreparedData
    compute: ComputeConfig
    ranks: Ranks
    callback: RunCallback
    nested: NestedRun | None = None
    events: EventLog = field(default_factory=EventLog)
    last_status: EpochStatus | None = None
    best: _BestCheckpoint | None = None
    has_noted_fault: bool = False
    started: float | None = None  # of the first epoch, as `time.monotonic` gives it

    def train(self) -> TrainResult:
        """Train, log the result and the model, and register it."""
        try:
            description = self._train_epochs()
            self._check_best_loss()
        except (RunInterruptedError, KeyboardInterrupt):
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

    def _log_abort(self, status: str, stop_reason: str) -> None:
        """Log why training was aborted; ignore tracking errors, which would hide the cause."""
        with suppress(TrialrunError):
            self._log_stop(self._build_result(status, stop_reason))

    def _log_stop(self, result: TrainResult) -> None:
        seconds = None if self.started is None else time.monotonic() - self.started
        log_stop(self.run, self.events, result, seconds)

    def _train_epochs(self) -> ModelDescription:
        session = start_session(
            self.plan, self.data, self.compute, self.ranks, self.callback.on_note
        )
        resolved = collect_resolved_params(session.state, self.plan.config)
        self.run.log_params({**resolved, **session.initial_params})
        forecast = DurationForecast(session, self.callback)
        self.started = time.monotonic()
        with finish_step_on_signal() as request:
            monitor = StepMonitor(request, self.ranks, self.compute.device, forecast.on_step)
            for status in session.epochs(monitor.on_step):
                self._end_epoch(session, status)
        return session.description

    def _end_epoch(self, session: TrainingSession, status: EpochStatus) -> None:
        timestamp_ms = log_epoch(self.run, status)
        self.last_status = status
        if status.is_best:
            state = _copy_state(session.state.inference_model().state_dict(), self.best)
            self.best = _BestCheckpoint(status, timestamp_ms, state)
        self.events.add_epoch(status)
        self._report_fault(status)
        self.callback.on_epoch_end(status, self.plan.config.epochs)

    def _report_fault(self, status: EpochStatus) -> None:
        """Log an evaluation fault of the epoch; note only the first one of the run."""
        fault = status.result.evaluation_fault
        if fault is None:
            return
        log_evaluation_fault(self.run, self.events, status)
        if not self.has_noted_fault:
            self.callback.on_note(f"epoch {status.result.epoch}: {fault}")
        self.has_noted_fault = True

    def _check_best_loss(self) -> None:
        """Raise unless the best validation loss is finite.

        Only validation checks the weights after the last step.
        """
        assert self.best is not None
        if not isfinite(self.best.status.best_valid_loss):
            raise NonFiniteLossError("no epoch had a finite validation loss")

    def _build_result(self, status: str, stop_reason: str) -> TrainResult:
        best = self.best.status if self.best else None
        return TrainResult(
            run_id=self.run.run_id,
            status=status,
            stop_reason=stop_reason,
            stopped_epoch=self.last_status.result.epoch if self.last_status else 0,
            best_epoch=best.best_epoch if best else 0,
            best_valid_loss=best.best_valid_loss if best else float("nan"),
            metrics=best.result.metrics() if best else {},
        )

    def _log_outcome(self, description: ModelDescription) -> TrainResult:
        """Log the result and, unless `nested` discards it, the model."""
        assert self.last_status is not None
        assert self.best is not None
        content = weights.serialize_state(self.best.state)
        stop_reason = self.last_status.stop_reason or early_stopping.COMPLETED
        result = replace(
            self._build_result("FINISHED", stop_reason),
            weights_sha256=weights.hash_weights(content),
        )
        self._log_stop(result)
        log_validation(self.run, self.best.status, self.plan, self.data)
        fault = self.best.status.result.evaluation_fault
        self.run.set_tags(
            {"mlflow.note.content": format_model_card(self.plan, result, self.data, fault)}
        )
        if self.nested and not self.nested.keeps_model(result):
            return result
        model = self._log_model(description, content, result)
        log_best_epoch(
            self.run, self.best.status, self.best.timestamp_ms, model.model_id, self.data
        )
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


def _copy_state(state: dict[str, Tensor], previous: _BestCheckpoint | None) -> dict[str, Tensor]:
    """Copy a state to the CPU, into the memory of the previous copy if there is one."""
    if previous is None:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    for name, tensor in state.items():
        previous.state[name].copy_(tensor.detach())
    return previous.state
