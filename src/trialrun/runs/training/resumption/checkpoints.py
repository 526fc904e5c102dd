"""The checkpoints of a run in progress: when they are taken, what they hold, and their return."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.checkpoint.run_folder import RunFolder
from trialrun.checkpoint.store import Checkpoint, CheckpointStore
from trialrun.checkpoint.writer import CheckpointWriter, copy_tensors
from trialrun.engine.fine_tuning.phases import enter_phase
from trialrun.engine.snapshot import (
    capture_generators,
    capture_tensors,
    capture_values,
    restore_generators,
    restore_state,
)
from trialrun.engine.steps import count_steps_per_epoch
from trialrun.errors import InvalidParameterError
from trialrun.runs.training.resumption.artifacts import CheckpointUploader
from trialrun.runs.training.resumption.progress import RunProgress
from trialrun.runs.training.session import TrainingSession

# Parts of a checkpoint: the network, the rest of the training state, the weights of the best epoch
# and its predictions, and the generators of all ranks.
_NETWORK, _STATE, _WEIGHTS, _PREDICTIONS = "network", "state", "best_weights", "best_predictions"
_RANKS = "ranks"
_FEATURE_SECONDS = 1.0
_BATCH, _POSITIONS = "batch", "positions"  # of the step with a non-finite loss


@dataclass(slots=True)
class RunCheckpoints:
    """Takes the checkpoints of one run; all ranks take part inside an epoch.

    `identity` is what `describe_identity` returned. Ranks above 0 have no folder.
    """

    folder: RunFolder | None
    session: TrainingSession
    progress: RunProgress
    identity: Mapping[str, Any]
    minutes: float
    uploader: CheckpointUploader | None = field(default=None, init=False)
    writer: CheckpointWriter | None = field(init=False)
    _last_seconds: float = field(default_factory=time.monotonic, init=False)
    _started: float = field(init=False)
    _saved_position: tuple[int, int] = field(default=(0, 0), init=False)  # epoch and step

    def __post_init__(self) -> None:
        folder = self.folder
        self.writer = CheckpointWriter(CheckpointStore(folder.checkpoints)) if folder else None
        self._started = time.monotonic() - self.progress.stopping.seconds

    def upload_to(self, uploader: CheckpointUploader) -> None:
        """Also give the checkpoints that are written to `uploader`."""
        self.uploader = uploader
        if self.writer is not None:
            self.writer.on_written = uploader.submit

    def measure_cost(self) -> dict[str, float]:
        """Return the number of checkpoints of this process and their cost in s, as metrics."""
        if self.writer is None:
            return {}
        return {
            "num_checkpoints": self.writer.num_written,
            "checkpoint_wait_seconds": self.writer.waited_seconds,
            "checkpoint_write_seconds": self.writer.written_seconds,
        }

    @property
    def training_seconds(self) -> float:
        """The training time so far, that of earlier processes included."""
        return time.monotonic() - self._started

    @property
    def _num_steps(self) -> int:
        session = self.session
        num_images, world_size = len(session.state.data.train), session.ranks.world_size
        return count_steps_per_epoch(session.plan.config, num_images, world_size)

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is older than the interval."""
        return time.monotonic() - self._last_seconds >= 60 * self.minutes

    def save_epoch(self) -> None:
        """Take a checkpoint after an epoch; at most one per second of epochs on features.

        These take milliseconds, less than a checkpoint. One follows the last epoch.

        Raises:
            StorageError: The previous checkpoint could not be written.
        """
        is_recent = time.monotonic() - self._last_seconds < _FEATURE_SECONDS
        has_ended = self.progress.stop_reason is not None
        if has_ended or not (is_recent and self.session.state.trains_on_features):
            self.save(in_epoch=False)

    def save(self, *, in_epoch: bool) -> None:
        """Take a checkpoint; rank 0 writes it while training continues.

        `in_epoch` means that all ranks are inside an epoch and call this: their generators are
        collected.

        Raises:
            StorageError: The previous checkpoint could not be written.
        """
        ranks, state = self.session.ranks, self.session.state
        generators = {}
        if in_epoch and ranks.world_size > 1:
            collected = ranks.gather_objects(capture_generators(state.compute.device))
            generators = {
                f"{rank}.{name}": tensor
                for rank, tensors in enumerate(collected)
                for name, tensor in tensors.items()
            }
        self._last_seconds, self._saved_position = time.monotonic(), (state.epoch, state.step)
        if self.writer is None:
            return
        parts = {
            _NETWORK: state.network.state_dict(),
            _STATE: capture_tensors(state),
            _RANKS: generators,
        }
        versions: dict[str, int] = {}
        if best := self.progress.best:
            parts |= {_WEIGHTS: best.weights, _PREDICTIONS: best.list_predictions()}
            versions = dict.fromkeys((_WEIGHTS, _PREDICTIONS), best.status.best_epoch)
        equal_parts = {_WEIGHTS: _NETWORK} if self._is_at_best else {}
        self.writer.submit(
            parts, self._collect_values(), versions=versions, equal_parts=equal_parts
        )

    @property
    def _is_at_best(self) -> bool:
        """Whether the network has the weights of the best epoch."""
        state, best = self.session.state, self.progress.best
        if best is None or state.ema is not None or state.step:
            return False
        return best.status.best_epoch == state.epoch

    def _collect_values(self) -> dict[str, Any]:
        state, progress = self.session.state, self.progress.to_json()
        progress["stopping"]["seconds"] = self.training_seconds
        return {
            "state": capture_values(state),
            "progress": progress,
            "identity": dict(self.identity),
            "world_size": self.session.ranks.world_size,
            "precision": state.compute.precision,
        }

    def save_non_finite(self, positions: NDArray[np.int64]) -> None:
        """Save the state before a step with a non-finite loss, for `trialrun resume --replay`.

        `positions`, (N,), are the images of the step in the training set.

        Raises:
            StorageError: The folder cannot be written.
        """
        if self.folder is None or self.session.ranks.world_size > 1:
            return
        state = self.session.state
        parts = {
            _NETWORK: copy_tensors(state.network.state_dict()),
            _STATE: copy_tensors(capture_tensors(state)),
            _BATCH: {_POSITIONS: torch.from_numpy(positions)},
        }
        CheckpointStore(self.folder.non_finite).write(parts, self._collect_values())

    def save_interrupted(self) -> None:
        """Save the state at which training was interrupted, if it is between two steps.

        Within an epoch of several ranks the state is incomplete without the other ranks.

        Raises:
            StorageError: It could not be written.
        """
        state = self.session.state
        is_complete = self.session.ranks.world_size == 1 or state.step in (0, self._num_steps)
        if self.writer is not None and not state.is_in_step and is_complete:
            if self._saved_position != (state.epoch, state.step):
                self.save(in_epoch=False)
            self.writer.wait()

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            StorageError: The last checkpoint could not be written.
        """
        if self.writer is not None:
            self.writer.wait()

    def release(self) -> None:
        """End the threads; training has ended or failed."""
        if self.writer is not None:
            self.writer.close()
        if self.uploader is not None:
            self.uploader.close()


def restore_progress(session: TrainingSession, checkpoint: Checkpoint) -> RunProgress:
    """Return the progress of a checkpoint."""
    weights, predictions = (checkpoint.parts.get(name, {}) for name in (_WEIGHTS, _PREDICTIONS))
    return RunProgress.from_json(
        session.plan.config, checkpoint.values["progress"], weights, predictions
    )


def check_restorable(checkpoint: Checkpoint, precision: str, world_size: int) -> None:
    """Check that training can continue from a checkpoint with this precision and these ranks.

    Raises:
        InvalidParameterError: This machine computes in another precision. Or the checkpoint is from
            another number of ranks, and training has not ended: a step would have another number
            of images.
    """
    values = checkpoint.values
    if values["precision"] != precision:
        raise InvalidParameterError(
            f"the run was trained in {values['precision']}, which would now be {precision}",
            "Resume on a machine like that of the interrupted run, or train again.",
        )
    has_ended = values["progress"]["stopping"]["stop_reason"] is not None
    if values["world_size"] != world_size and not has_ended:
        raise InvalidParameterError(
            f"the run was trained with {values['world_size']} ranks, not {world_size}: the "
            "resumed run would use other batches",
            f"Start {values['world_size']} processes with `torchrun --nproc-per-node`.",
        )


def restore_session(session: TrainingSession, checkpoint: Checkpoint) -> None:
    """Set the state of training to that of a checkpoint; every rank calls this.

    Raises:
        InvalidParameterError: See `check_restorable`.
    """
    ranks = session.ranks
    check_restorable(checkpoint, session.state.compute.precision, ranks.world_size)
    tensors = checkpoint.parts[_STATE]
    network = checkpoint.parts[_NETWORK]
    restore_state(session.state, network, tensors, checkpoint.values["state"])
    enter_phase(session.state, session.plan.config, ranks)
    own = _select_generators(checkpoint.parts.get(_RANKS, {}), ranks.rank)
    restore_generators(own or tensors, session.state.compute.device)


def read_positions(checkpoint: Checkpoint) -> NDArray[np.int64] | None:
    """Return the images of the step that `save_non_finite` saved; None for other checkpoints."""
    batch = checkpoint.parts.get(_BATCH)
    return None if batch is None else batch[_POSITIONS].numpy()


def _select_generators(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    prefix = f"{rank}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
