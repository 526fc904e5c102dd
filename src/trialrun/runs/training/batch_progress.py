"""Progress within an epoch: reports speed, loss and time left to the callback of a run.

Between two reports a step costs one look at the clock. A report does not make the host wait for a
GPU: the loss is then that of the report before.
"""

import time

import torch
from torch import Tensor

from trialrun.engine.memory.accumulation import count_valid_images
from trialrun.runs.callbacks import BatchProgress, RunCallback
from trialrun.runs.training.session import TrainingSession


class BatchReporter:
    """Reports batches of training and validation to a callback, as often as it asks for."""

    def __init__(self, session: TrainingSession, callback: RunCallback) -> None:
        self._session, self._callback = session, callback
        self._interval = callback.batch_interval
        self._due = time.perf_counter() + (self._interval or 0.0)
        self._loss = _LossReader()
        self._num_valid_batches = 0
        self._valid_started = 0.0
        self._epoch_started = time.perf_counter()
        self._epoch_seconds: float | None = None  # of the last epoch

    def on_step(self) -> None:
        """Report the training of the epoch if it is time to."""
        self._num_valid_batches = 0
        if self._is_due():
            self._report_training()

    def on_valid_batch(self) -> None:
        """Report the validation of the epoch if it is time to."""
        if self._num_valid_batches == 0:
            self._valid_started = time.perf_counter()
        self._num_valid_batches += 1
        if self._is_due() and self._num_valid_batches > 1:
            self._report_validation()

    def on_epoch_end(self) -> None:
        """Remember how long the epoch took, for the estimates of the next ones."""
        now = time.perf_counter()
        self._epoch_seconds, self._epoch_started = now - self._epoch_started, now
        self._loss = _LossReader()

    def _is_due(self) -> bool:
        if self._interval is None or (now := time.perf_counter()) < self._due:
            return False
        self._due = now + self._interval
        return True

    def _report_training(self) -> None:
        state, ranks = self._session.state, self._session.ranks
        num_images = len(state.data.train)
        size = self._session.plan.config.batch_size * ranks.world_size
        num_done = min(state.num_images or state.step * size, num_images)
        speed = num_done / max(state.train_seconds, 1e-9)
        # The sum is that of this rank's images.
        loss = self._loss.read(state.totals, max(num_done // ranks.world_size, 1))
        self._report(num_done, num_images, speed, loss=loss)

    def _report_validation(self) -> None:
        state, world_size = self._session.state, self._session.ranks.world_size
        size = count_valid_images(self._session.plan.config, state) * world_size
        num_images = len(state.data.valid)
        # The clock starts after the first batch, which is not counted.
        num_timed = (self._num_valid_batches - 1) * size
        speed = num_timed / max(time.perf_counter() - self._valid_started, 1e-9)
        self._report(min(num_timed + size, num_images), num_images, speed, is_training=False)

    def _report(
        self,
        num_done: int,
        num_images: int,
        speed: float,
        *,
        loss: float | None = None,
        is_training: bool = True,
    ) -> None:
        state, epochs = self._session.state, self._session.plan.config.epochs
        seconds_left = (num_images - num_done) / speed
        elapsed_seconds = time.perf_counter() - self._epoch_started
        epoch_seconds = self._epoch_seconds or elapsed_seconds + seconds_left
        self._callback.on_batch(
            BatchProgress(
                epoch=state.epoch + 1,
                epochs=epochs,
                is_training=is_training,
                num_done=num_done,
                num_images=num_images,
                images_per_second=speed,
                loss=loss,
                seconds_left=seconds_left,
                run_seconds_left=seconds_left + (epochs - state.epoch - 1) * epoch_seconds,
            )
        )


class _LossReader:
    """Reads the mean training loss of an epoch so far."""

    def __init__(self) -> None:
        self._loss: float | None = None
        self._copy: tuple[Tensor, int, torch.cuda.Event] | None = None  # that CUDA is working on

    def read(self, totals: Tensor, num_images: int) -> float | None:
        """Return the mean loss of `num_images`; on CUDA that of the last finished copy, if any."""
        if totals.device.type != "cuda":
            return float(totals[0]) / num_images
        if self._copy is not None:
            copied, num_copied, event = self._copy
            if not event.query():
                return self._loss
            self._loss = float(copied[0]) / num_copied
        copied = torch.empty_like(totals, device="cpu", pin_memory=True)
        copied.copy_(totals, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._copy = (copied, num_images, event)
        return self._loss
