"""The monitor of training steps: checkpoints and stop signals, on all ranks together."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from trialrun.engine.early_stopping import EpochStatus
from trialrun.runs.signals import StopRequest
from trialrun.runs.training.batch_progress import BatchReporter
from trialrun.runs.training.outcome.parts_report import PartsReport
from trialrun.runs.training.resumption.checkpoints import RunCheckpoints
from trialrun.runs.training.session import DurationForecast

# All ranks must stop after the same step: the others would wait for a gradient forever. On a CPU
# agreeing takes a tenth of a millisecond. On CUDA the host would wait for the GPU at every step.
_CUDA_STEPS = 16


@dataclass(slots=True)
class StepMonitor:
    """Takes the checkpoints that are due, and stops after the step in which a signal arrived.

    A signal at any rank stops all of them. Only rank 0 forecasts and reports.
    """

    request: StopRequest
    checkpoints: RunCheckpoints
    forecast: DurationForecast | None = None
    parts: PartsReport | None = None
    reporter: BatchReporter | None = None
    _num_steps: int = field(default=0, init=False)

    def watch_epochs(self) -> Iterator[EpochStatus]:
        """Train; yield the status after each epoch (see `TrainingSession.epochs`)."""
        checkpoints = self.checkpoints
        return checkpoints.session.epochs(
            checkpoints.progress.stopping, self.on_step, self.on_valid_batch
        )

    def on_valid_batch(self) -> None:
        """Stop between two batches of validation; several ranks wait for the next step.

        Raises:
            RunInterruptedError: A signal arrived; training of the epoch has ended.
        """
        if self.reporter is not None:
            self.reporter.on_valid_batch()
        if self.checkpoints.session.ranks.world_size == 1:
            self.request.raise_if_set()

    def on_step(self) -> None:
        """Do what is to be done after a step.

        Raises:
            RunInterruptedError: A signal arrived; the state after this step is saved.
            StorageError: The previous checkpoint could not be written.
        """
        self._num_steps += 1
        if self.forecast is not None:
            self.forecast.on_step()
        if self.parts is not None:
            self.parts.on_step()
        if self.reporter is not None:
            self.reporter.on_step()
        session = self.checkpoints.session
        on_cuda = session.state.compute.device.type == "cuda"
        if session.ranks.world_size == 1:
            if self.request.is_set or self.checkpoints.is_due:
                self.checkpoints.save(in_epoch=True)
            self.request.raise_if_set()
        elif not on_cuda or self._num_steps % _CUDA_STEPS == 0:
            self._agree()

    def _agree(self) -> None:
        """Do what any rank asks for: a checkpoint (rank 0 decides when), or to stop."""
        ranks = self.checkpoints.session.ranks
        is_due = ranks.is_first and self.checkpoints.is_due
        if ranks.any(self.request.is_set or is_due):
            self.checkpoints.save(in_epoch=True)
            if ranks.any(self.request.is_set):
                self.request.raise_agreed()
