"""A training run in progress: trains, takes checkpoints, logs epochs, the result and the model."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.checkpoint.store import Checkpoint
from trialrun.distributed import Ranks
from trialrun.engine import early_stopping
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.early_stopping import EarlyStopping, EpochStatus, PrunedError
from trialrun.engine.fine_tuning.range_test import RangeTest
from trialrun.engine.memory.batch_trial import name_fitting_batch
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.files import scratch_directory
from trialrun.models import directory
from trialrun.models.directory import ModelDescription
from trialrun.registry import LoggedModel
from trialrun.runs.callbacks import RunCallback
from trialrun.runs.signals import StopRequest, finish_step_on_signal
from trialrun.runs.training.batch_progress import BatchReporter
from trialrun.runs.training.fine_tuning import log_range_test
from trialrun.runs.training.inputs.data import PreparedData
from trialrun.runs.training.inputs.epoch_images import log_epoch_images
from trialrun.runs.training.logging import (
    SUMMARY_STEP,
    collect_resolved_params,
    log_epoch,
    log_evaluation_fault,
    log_parity_failure,
    log_start,
    log_stop,
    log_validation,
)
from trialrun.runs.training.outcome.model_card import format_model_card
from trialrun.runs.training.outcome.model_record import make_model_record
from trialrun.runs.training.outcome.model_upload import CARD_ADDRESS, MODEL_RECORD
from trialrun.runs.training.outcome.parity import check_parity, measure_parity
from trialrun.runs.training.outcome.parts_report import PartsReport
from trialrun.runs.training.outcome.report import log_training_report
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.artifacts import CheckpointUploader
from trialrun.runs.training.resumption.checkpoints import (
    RunCheckpoints,
    check_restorable,
    restore_progress,
    restore_session,
)
from trialrun.runs.training.resumption.identity import (
    check_identity,
    describe_identity,
    describe_inexactness,
    use_recorded_threads,
)
from trialrun.runs.training.resumption.progress import BestEpoch, RunProgress
from trialrun.runs.training.resumption.step_monitor import StepMonitor
from trialrun.runs.training.session import DurationForecast, TrainingSession, start_session
from trialrun.scoring.parity import Parity
from trialrun.tracking import TrackedRun


def start_checkpoints(
    session: TrainingSession,
    checkpoint: Checkpoint | None,
    folder: RunFolder | None,
    identity: Mapping[str, Any],
    plan: TrainPlan,
    on_range_test: Callable[[RangeTest], None] | None = None,
) -> RunCheckpoints:
    """Restore a checkpoint or prepare the first epoch, and prepare to take the next checkpoints.

    `on_range_test` receives the test of learning_rate=auto.
    """
    if checkpoint is None:
        progress = RunProgress(EarlyStopping(session.plan.config))
        session.prepare(on_range_test)
    else:
        use_recorded_threads(checkpoint.values["identity"])
        progress = restore_progress(session, checkpoint)
        restore_session(session, checkpoint)
    return RunCheckpoints(folder, session, progress, identity, plan.config.checkpoint_minutes)


def identify_run(
    plan: TrainPlan,
    data: PreparedData,
    compute: ComputeConfig,
    ranks: Ranks,
    checkpoint: Checkpoint | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Return what identifies settings and data, after comparing it with a checkpoint's.

    `note` receives why a resumed run will not be bit-identical, if it will not.

    Raises:
        InvalidParameterError: Settings, model files, precision or the number of ranks have changed.
        InvalidDatasetError: The images have changed.
    """
    if checkpoint is None:
        return describe_identity(plan, data, compute)
    then = checkpoint.values["identity"]
    use_recorded_threads(then)
    identity = describe_identity(plan, data, compute)
    check_identity(then, identity)
    check_restorable(checkpoint, compute.precision, ranks.world_size)
    if inexactness := describe_inexactness(then, identity):
        note(inexactness)
    return identity


def _keep_always(_result: TrainResult) -> bool:
    """Keep the model of every run."""
    return True


@dataclass(slots=True)
class TrainingRun:
    """A run in progress and its parts; rank 0 has it. `identity` is from `identify_run`."""

    plan: TrainPlan
    run: TrackedRun
    data: PreparedData
    identity: Mapping[str, Any]
    compute: ComputeConfig
    ranks: Ranks
    callback: RunCallback
    folder: RunFolder
    keeps_model: Callable[[TrainResult], bool] = _keep_always
    is_trial: bool = False  # of a search
    checkpoints: RunCheckpoints | None = None  # None until the network is built

    @property
    def progress(self) -> RunProgress:
        """The progress so far."""
        if self.checkpoints is None:
            return RunProgress(EarlyStopping(self.plan.config))
        return self.checkpoints.progress

    @property
    def _has_report(self) -> bool:
        return self.plan.config.report and not self.is_trial

    def train(self, checkpoint: Checkpoint | None) -> TrainResult:
        """Train, from `checkpoint` if there is one; log the result and the model."""
        try:
            description = self._train_epochs(checkpoint)
            self._check_best_loss()
            content, sha256 = self._best.serialize()  # while the last checkpoint is written
            self._finish_checkpoints()
        except (RunInterruptedError, KeyboardInterrupt):
            self._save_interrupted()
            self._log_abort("KILLED", early_stopping.KILLED)
            raise
        except PrunedError:
            result = self._build_result("FINISHED", early_stopping.PRUNED)
            self._log_stop(result)
            self._delete_uploads()
            return result
        except NonFiniteLossError as error:
            self._save_non_finite(error)
            self._log_abort("FAILED", early_stopping.NON_FINITE_LOSS)
            raise
        finally:
            if self.checkpoints is not None:
                self.checkpoints.release()
        return self._log_outcome(description, content, sha256)

    def _train_epochs(self, checkpoint: Checkpoint | None) -> ModelDescription:
        if checkpoint is None:
            log_start(self.run, self.plan, self.data, self.compute, self.callback.on_note)
        session = start_session(
            self.plan, self.data, self.compute, self.ranks, self.callback.on_note
        )
        resolved = collect_resolved_params(session.state, session.plan.config)
        self.run.log_params({**resolved, **session.initial_params})
        checkpoints = start_checkpoints(
            session,
            self.ranks.broadcast_object(checkpoint),
            self.folder,
            self.identity,
            self.plan,
            partial(log_range_test, self.run),
        )
        self.checkpoints = checkpoints
        if self.plan.config.checkpoint_artifacts and not self.plan.config.offline:
            checkpoints.upload_to(CheckpointUploader(self.run.client, self.run.run_id))
        if checkpoint is not None:
            self._report_resumption(session)
            self.callback.on_resume(self.progress.epochs, self.progress.stop_reason)
        with finish_step_on_signal() as request:
            reporter = BatchReporter(session, self.callback)
            monitor = self._make_monitor(request, checkpoints, reporter)
            statuses = monitor.watch_epochs()
            if not self.is_trial:  # a search proposes smaller batches itself
                statuses = name_fitting_batch(statuses, session.state, self.plan.config, self.ranks)
            for status in statuses:
                self._log_epoch(status, session)
                checkpoints.save_epoch()
                self.callback.on_epoch_end(status, self.plan.config.epochs)
                reporter.on_epoch_end()
        return session.description

    @property
    def _session(self) -> TrainingSession:
        assert self.checkpoints is not None, "the network is built"
        return self.checkpoints.session

    @property
    def _best(self) -> BestEpoch:
        best = self.progress.best
        assert best is not None, "training has ended"
        return best

    def _finish_checkpoints(self) -> None:
        assert self.checkpoints is not None
        self.checkpoints.wait()
        self.run.log_metrics(self.checkpoints.measure_cost(), SUMMARY_STEP)

    def _make_monitor(
        self, request: StopRequest, checkpoints: RunCheckpoints, reporter: BatchReporter
    ) -> StepMonitor:
        session, note = checkpoints.session, self.callback.on_note
        return StepMonitor(
            request,
            checkpoints,
            DurationForecast(session, self.callback),
            PartsReport(session, self.run, checkpoints.progress.events, note),
            reporter,
        )

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
        weights = session.state.list_weights(changing_only=self.progress.best is not None)
        self.progress.add_epoch(status, timestamp_ms, weights)
        self._report_fault(status)
        if self._has_report:
            log_epoch_images(self.run, self.plan, self.data, status, timestamp_ms)

    def _save_interrupted(self) -> None:
        """Save the state at which a signal stopped training, if it is between two steps.

        Errors are ignored: the checkpoint before remains, and the run ends as KILLED.
        """
        if self.checkpoints is not None:
            with suppress(TrialrunError):
                self.checkpoints.save_interrupted()

    def _save_non_finite(self, error: NonFiniteLossError) -> None:
        """Save the state before the step, for a replay; a search would fill the disk with them."""
        if self.checkpoints is None or error.positions is None or self.is_trial:
            return
        with suppress(TrialrunError):
            self.checkpoints.save_non_finite(error.positions)
            error.hint += (
                f" `trialrun resume {self.run.run_id} --replay` shows the layer and the images."
            )

    def _log_abort(self, status: str, stop_reason: str) -> None:
        """Log why training was aborted; ignore tracking errors, which would hide the cause."""
        with suppress(TrialrunError):
            self._log_stop(self._build_result(status, stop_reason))

    def _log_stop(self, result: TrainResult) -> None:
        # Images that no pack holds are decoded in every epoch, too.
        self.run.set_tags({"decoded_images": str(self.data.num_decoded)})
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

    def _log_outcome(
        self, description: ModelDescription, content: bytes, sha256: str
    ) -> TrainResult:
        """Log the result and, unless `keeps_model` says no, the model with its weights file."""
        best = self._best
        stop_reason = self.progress.stop_reason or early_stopping.COMPLETED
        result = replace(self._build_result("FINISHED", stop_reason), weights_sha256=sha256)
        self._log_stop(result)
        log_validation(self.run, best.status, self.plan, self.data)
        if not self.keeps_model(result):
            self.run.set_tags({"mlflow.note.content": self._format_card(result, best, "")})
            self._delete_uploads()
            return result
        card = self._format_card(result, best, CARD_ADDRESS)
        with scratch_directory() as scratch:
            folder = scratch / MODEL_RECORD
            directory.write_model_directory(folder, description, content)
            parity = self._measure_parity(description, folder)
            result = self._send_model(folder, result, parity, card)
        check_parity(parity, result.model_uri)
        self._log_report(result)
        return result

    def _format_card(self, result: TrainResult, best: BestEpoch, address: str) -> str:
        initial_params = self._session.initial_params
        return format_model_card(self.plan, result, self.data, best, initial_params, address)

    def _log_report(self, result: TrainResult) -> None:
        if self._has_report:
            network = self._session.state.inference_model()
            log_training_report(self.run, self.plan, self.data, self.progress, result, network)

    def _measure_parity(self, description: ModelDescription, folder: Path) -> Parity:
        """Compare the model to log with the trained network; log the difference and a failure."""
        state, weights = self._session.state, self._best.weights
        started = time.monotonic()
        parity = measure_parity(state, weights, description, folder, self.data)
        self.run.log_metrics({"parity_seconds": time.monotonic() - started}, SUMMARY_STEP)
        self.run.set_tags(parity.make_tags())
        if not parity.is_equal:
            log_parity_failure(self.run, self.progress.events, parity)
        return parity

    def _send_model(
        self, folder: Path, result: TrainResult, parity: Parity, card: str
    ) -> TrainResult:
        """Record the model and wait for the store; return the result with the stored model."""
        self._record_model(folder, result, parity, card)
        self.run.flush()
        self._delete_uploads()
        return self._add_model(result)

    def _delete_uploads(self) -> None:
        if self.checkpoints is not None and self.checkpoints.uploader is not None:
            self.checkpoints.uploader.delete()

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

    def _record_model(self, folder: Path, result: TrainResult, parity: Parity, card: str) -> None:
        """Record the model: it is uploaded, verified and registered while the store answers.

        Without parity it is not registered.
        """
        best = self._best
        record = make_model_record(self.plan, self.data, best, result, parity, card)
        self.run.log_custom(
            MODEL_RECORD,
            record.to_json(),
            partial(directory.move_data_files, folder),
        )
