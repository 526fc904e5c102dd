"""One training run from data to registered model, logged to MLflow."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from trialrun.checkpoint.run_folder import choose_root, create_run_folder
from trialrun.config import TrainConfig, list_settings
from trialrun.distributed import SINGLE_PROCESS, Ranks, join_ranks
from trialrun.engine import early_stopping
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.early_stopping import EpochStatus, PrunedError
from trialrun.errors import RunInterruptedError, TrackingError, TrialrunError
from trialrun.mlflow_client import connect_client, is_outage
from trialrun.models import directory, weights
from trialrun.models.directory import ModelDescription
from trialrun.registry import LoggedModel
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.training.data import PreparedData, prepare_data
from trialrun.runs.training.environment import FOLDER_TAG
from trialrun.runs.training.logging import (
    EventLog,
    collect_linked_metrics,
    collect_resolved_params,
    log_epoch,
    log_evaluation_fault,
    log_start,
    log_stop,
    log_validation,
)
from trialrun.runs.training.model_card import format_model_card
from trialrun.runs.training.model_upload import HANDLERS, MODEL_RECORD, ModelRecord
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.result import TrainResult
from trialrun.runs.training.session import DurationForecast, resolve_rank_compute, start_session
from trialrun.tracking import (
    JournalOptions,
    TrackedRun,
    open_nested_run,
    open_run,
    truncate_digest,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
        with _open_nested_run(plan, nested, callback) as run:
            callback.on_run_start(run.name, run.run_id)
            return _train_to_end(plan, run, nested.data, compute, SINGLE_PROCESS, callback, nested)
    with join_ranks(compute.device) as ranks:
        if ranks.is_first:
            return ranks.broadcast_object(_train_tracked(plan, compute, ranks, callback))
        session = start_session(plan, prepare_data(plan, NoOpCallback()), compute, ranks)
        for _ in session.epochs(lambda: None):
            pass
        return ranks.broadcast_object(None)  # type: ignore[return-value] # returns rank 0's result


def _open_nested_run(
    plan: TrainPlan, nested: NestedRun, callback: RunCallback
) -> AbstractContextManager[TrackedRun]:
    return open_nested_run(
        _connect(plan.config),
        parent_run_id=nested.parent_run_id,
        experiment_id=nested.experiment_id,
        name=nested.name,
        tags={**_build_tags(), **nested.tags},
        journal=_create_journal(plan.config, callback),
    )


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


def _create_journal(config: TrainConfig, callback: RunCallback) -> JournalOptions:
    import mlflow

    root = choose_root(config.checkpoint_dir, mlflow.get_tracking_uri())
    settings = {item.name: getattr(config, item.name) for item in list_settings(type(config))}
    return JournalOptions(
        folder=create_run_folder(root, settings),
        flush_seconds=config.flush_seconds,
        offline=config.offline,
        handlers=HANDLERS,
        note=callback.on_note,
    )


def _train_tracked(
    plan: TrainPlan, compute: ComputeConfig, ranks: Ranks, callback: RunCallback
) -> TrainResult:
    config = plan.config
    with open_run(
        _connect(config),
        experiment=config.experiment,
        name=config.run_name,
        tags=_build_tags(),
        journal=_create_journal(config, callback),
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
        for status in session.epochs(forecast.on_step):
            timestamp_ms = log_epoch(self.run, status)
            self.last_status = status
            if status.is_best:
                state = _copy_state(session.state.inference_model().state_dict(), self.best)
                self.best = _BestCheckpoint(status, timestamp_ms, state)
            self.events.add_epoch(status)
            self._report_fault(status)
            self.callback.on_epoch_end(status, self.plan.config.epochs)
        return session.description

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
        self._record_model(description, content, result)
        self.run.flush()
        return self._add_model(result)

    def _add_model(self, result: TrainResult) -> TrainResult:
        """Add the model and its version; they remain None if the store is away."""
        sent = self.run.read_result(MODEL_RECORD)
        if sent is None:
            return result
        model_uri = LoggedModel(sent["model_id"]).uri
        if sent["version"] is None:
            return replace(result, model_uri=model_uri)
        name = self.plan.config.register_as
        return replace(result, model_uri=model_uri, model_name=name, model_version=sent["version"])

    def _model_tags(self, result: TrainResult) -> dict[str, str]:
        metrics = {name: f"{value:.6g}" for name, value in result.metrics.items()}
        return metrics | {
            "weights_sha256": str(result.weights_sha256),
            "train_digest": truncate_digest(self.data.train.scan),
            "valid_digest": truncate_digest(self.data.valid.scan),
            "best_epoch": str(result.best_epoch),
            "stop_reason": result.stop_reason,
        }

    def _record_model(
        self, description: ModelDescription, content: bytes, result: TrainResult
    ) -> None:
        """Record the model: it is uploaded, verified and registered while the store answers."""
        assert self.best is not None
        record = ModelRecord(
            params=self.plan.config.params(),
            tags=self._model_tags(result),
            step=result.best_epoch,
            timestamp_ms=self.best.timestamp_ms,
            metrics=collect_linked_metrics(self.best.status, self.data),
            register_as=self.plan.config.register_as,
        )
        self.run.log_custom(
            MODEL_RECORD,
            record.to_json(),
            lambda folder: directory.write_model_directory(folder, description, content),
        )


def _copy_state(state: dict[str, Tensor], previous: _BestCheckpoint | None) -> dict[str, Tensor]:
    """Copy a state to the CPU, into the memory of the previous copy if there is one."""
    if previous is None:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    for name, tensor in state.items():
        previous.state[name].copy_(tensor.detach())
    return previous.state
