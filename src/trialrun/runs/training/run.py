"""One tracked training run, end to end: data, network, epochs, record, model, registry."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from torch import Tensor

from trialrun.distributed import ALONE, Ranks, join_ranks
from trialrun.engine import early_stopping
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.early_stopping import EpochStatus, PrunedError
from trialrun.errors import CutBySignalError, TrialrunError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import connect_client
from trialrun.models import directory, weights
from trialrun.models.directory import ModelDescription
from trialrun.registry import LoggedModel, create_model, register_version, upload_model
from trialrun.runs.callbacks import NoOpCallback, RunCallback
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
from trialrun.runs.training.session import DurationForecast, resolve_rank_compute, start_session
from trialrun.serving.package import add_serving_files
from trialrun.tracking import TrackedRun, open_nested_run, open_run, truncate_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedRun:
    """What is different where a run is one of many below a parent, in one process.

    Its observer may raise `PrunedError` after an epoch: the run then ends without a model.
    """

    parent_run_id: str
    experiment_id: str
    name: str
    tags: Mapping[str, str]
    data: PreparedData
    keeps_model: Callable[[TrainResult], bool]  # whether the model is worth logging


@isolate_torch_state()
def train_run(
    plan: TrainPlan, callback: RunCallback | None = None, *, nested: NestedRun | None = None
) -> TrainResult:
    """Train what `plan` says as an MLflow run, and register the model where it says so.

    Of several ranks the first keeps the record; all return its result.

    Raises:
        TrialrunError: As its kinds say; the run is then FAILED.
        CutBySignalError: A signal came; the run is then KILLED.
    """
    callback = callback or NoOpCallback()
    compute = resolve_rank_compute(plan)
    if nested is not None:
        with _open_nested_run(nested) as run:
            callback.opened(run.name, run.run_id)
            return _train_to_end(plan, run, nested.data, compute, ALONE, callback, nested)
    with join_ranks(compute.device) as ranks:
        if ranks.is_first:
            return ranks.agree(_train_recorded(plan, compute, ranks, callback))
        under_way = start_session(plan, prepare_data(plan, NoOpCallback()), compute, ranks)
        for _ in under_way.epochs(lambda: None):
            pass
        return ranks.agree(None)  # type: ignore[return-value] # the first rank's is what comes


def _open_nested_run(nested: NestedRun) -> AbstractContextManager[TrackedRun]:
    return open_nested_run(
        connect_client(),
        parent_run_id=nested.parent_run_id,
        experiment_id=nested.experiment_id,
        name=nested.name,
        tags={**_build_tags(), **nested.tags},
    )


def _train_recorded(
    plan: TrainPlan, compute: ComputeConfig, ranks: Ranks, callback: RunCallback
) -> TrainResult:
    config = plan.config
    with open_run(
        connect_client(), experiment=config.experiment, name=config.run_name, tags=_build_tags()
    ) as run:
        callback.opened(run.name, run.run_id)
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
    return _TrainingRun(plan, run, data, compute, ranks, callback, nested).result()


@dataclass(slots=True)
class _BestCheckpoint:
    """The best epoch so far and its weights, on the CPU."""

    status: EpochStatus
    timestamp_ms: int
    state: dict[str, Tensor]


@dataclass(slots=True)
class _TrainingRun:
    """A run under way: what it is made of, and how far it has come."""

    plan: TrainPlan
    run: TrackedRun
    data: PreparedData
    compute: ComputeConfig
    ranks: Ranks
    callback: RunCallback
    nested: NestedRun | None = None
    events: EventLog = field(default_factory=EventLog)
    last: EpochStatus | None = None
    best: _BestCheckpoint | None = None
    has_fault: bool = False

    def result(self) -> TrainResult:
        """Train, record, store."""
        try:
            description = self._train()
            self._check_learned()
        except (CutBySignalError, KeyboardInterrupt):
            self._record_break("KILLED", early_stopping.KILLED)
            raise
        except PrunedError:
            result = self._outcome("FINISHED", early_stopping.PRUNED)
            log_stop(self.run, self.events, result)
            return result
        except NonFiniteLossError:
            self._record_break("FAILED", early_stopping.NON_FINITE_LOSS)
            raise
        assert self.last is not None
        assert self.best is not None
        return self._stored(description)

    def _record_break(self, status: str, stop_reason: str) -> None:
        """Why training broke off; a store that takes no more hides neither signal nor error."""
        with suppress(TrialrunError):
            log_stop(self.run, self.events, self._outcome(status, stop_reason))

    def _train(self) -> ModelDescription:
        under_way = start_session(
            self.plan, self.data, self.compute, self.ranks, self.callback.note
        )
        resolved = collect_resolved_params(under_way.state, self.plan.config)
        self.run.log_params({**resolved, **under_way.initial_params})
        forecast = DurationForecast(under_way, self.callback)
        for status in under_way.epochs(forecast.step):
            when = log_epoch(self.run, status)
            self.last = status
            if status.is_best:
                state = _copy_state(under_way.state.inference_model().state_dict(), self.best)
                self.best = _BestCheckpoint(status, when, state)
            self.events.epoch(status)
            self._report_fault(status)
            self.callback.epoch(status, self.plan.config.epochs)
        return under_way.description

    def _report_fault(self, status: EpochStatus) -> None:
        """Say once that validation figures of this run mean nothing."""
        fault = status.result.evaluation_fault
        if fault is None:
            return
        log_evaluation_fault(self.run, self.events, status)
        if not self.has_fault:
            self.callback.note(f"epoch {status.result.epoch}: {fault}")
        self.has_fault = True

    def _check_learned(self) -> None:
        """Hold the best epoch to a loss that is a number: weights without one must not be kept.

        The last step's weights are judged by validation alone.
        """
        assert self.best is not None
        if not isfinite(self.best.status.best_valid_loss):
            raise NonFiniteLossError("no epoch had a validation loss that is a number")

    def _outcome(self, status: str, stop_reason: str) -> TrainResult:
        best = self.best.status if self.best else None
        return TrainResult(
            run_id=self.run.run_id,
            status=status,
            stop_reason=stop_reason,
            stopped_epoch=self.last.result.epoch if self.last else 0,
            best_epoch=best.best_epoch if best else 0,
            best_valid_loss=best.best_valid_loss if best else float("nan"),
            metrics=best.result.metrics() if best else {},
        )

    def _stored(self, description: ModelDescription) -> TrainResult:
        assert self.last is not None
        assert self.best is not None
        content = weights.serialize_state(self.best.state)
        result = replace(
            self._outcome("FINISHED", self.last.stop_reason or early_stopping.COMPLETED),
            weights_sha256=weights.hash_weights(content),
        )
        log_stop(self.run, self.events, result)
        log_validation(self.run, self.best.status, self.plan, self.data)
        fault = self.best.status.result.evaluation_fault
        self.run.set_tags(
            {"mlflow.note.content": format_model_card(self.plan, result, self.data, fault)}
        )
        if self.nested and not self.nested.keeps_model(result):
            return result
        model = self._logged(description, content, result)
        log_best_epoch(
            self.run, self.best.status, self.best.timestamp_ms, model.model_id, self.data
        )
        result = replace(result, model_uri=model.uri)
        name = self.plan.config.register_as
        if name is None:
            return result
        number = register_version(
            self.run.client, model, name=name, run_id=self.run.run_id, tags=self._model_tags(result)
        )
        return replace(result, model_name=name, model_version=number)

    def _model_tags(self, result: TrainResult) -> dict[str, str]:
        figures = {name: f"{value:.6g}" for name, value in result.metrics.items()}
        return figures | {
            "weights_sha256": str(result.weights_sha256),
            "train_digest": truncate_digest(self.data.train.scan),
            "valid_digest": truncate_digest(self.data.valid.scan),
            "best_epoch": str(result.best_epoch),
            "stop_reason": result.stop_reason,
        }

    def _logged(
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


def _copy_state(state: dict[str, Tensor], before: _BestCheckpoint | None) -> dict[str, Tensor]:
    """A copy on the CPU that later training does not change, in the memory of the one before."""
    if before is None:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    for name, tensor in state.items():
        before.state[name].copy_(tensor.detach())
    return before.state
