"""Callbacks that report the progress of a run. The command line prints it; library calls do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trialrun.engine.early_stopping import EpochStatus

READING, DECODING, WRITING = "Reading files", "Decoding images", "Writing images"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How far an epoch is: the images of training that are done, or those of validation.

    `loss` is the mean training loss of the epoch so far; None if it is not known yet. The seconds
    are estimates for the rest of the epoch's training or validation, and of all epochs.
    """

    epoch: int
    epochs: int
    is_training: bool
    num_done: int
    num_images: int
    images_per_second: float
    loss: float | None
    seconds_left: float
    run_seconds_left: float


class RunCallback(Protocol):
    """Receives the progress of a run.

    `on_batch` is called at most once per `batch_interval`, in seconds; never if that is None.
    """

    @property
    def batch_interval(self) -> float | None: ...

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """The run has been opened in MLflow."""

    def on_note(self, text: str) -> None:
        """The user should know `text`, such as a warning."""

    def on_scan_start(self, description: str, num_images: int) -> None:
        """A pass over `num_images` images starts: `description` is `READING`, for example."""

    def on_scan_progress(self, num_images: int) -> None:
        """The pass has processed `num_images` more images."""

    def on_resume(self, epochs: Sequence[Mapping[str, float]], stop_reason: str | None) -> None:
        """The run continues after epochs with these metrics; with a `stop_reason`, none follows."""

    def on_batch(self, progress: BatchProgress) -> None:
        """A batch of training or validation is done."""

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """An epoch out of at most `epochs` has ended."""


class NoOpCallback:
    """A `RunCallback` that does nothing, to be used as it is or as a base class."""

    @property
    def batch_interval(self) -> float | None:
        return None

    def on_run_start(self, run_name: str, run_id: str) -> None: ...

    def on_note(self, text: str) -> None: ...

    def on_scan_start(self, description: str, num_images: int) -> None: ...

    def on_scan_progress(self, num_images: int) -> None: ...

    def on_resume(self, epochs: Sequence[Mapping[str, float]], stop_reason: str | None) -> None: ...

    def on_batch(self, progress: BatchProgress) -> None: ...

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None: ...
