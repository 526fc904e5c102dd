"""Callbacks that report the progress of a run. The command line prints it; library calls do not."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from trialrun.engine.early_stopping import EpochStatus

READING, DECODING, WRITING = "Reading files", "Decoding images", "Writing images"


class RunCallback(Protocol):
    """Receives the progress of a run."""

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

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """An epoch out of at most `epochs` has ended."""


class NoOpCallback:
    """A `RunCallback` that does nothing, to be used as it is or as a base class."""

    def on_run_start(self, run_name: str, run_id: str) -> None: ...

    def on_note(self, text: str) -> None: ...

    def on_scan_start(self, description: str, num_images: int) -> None: ...

    def on_scan_progress(self, num_images: int) -> None: ...

    def on_resume(self, epochs: Sequence[Mapping[str, float]], stop_reason: str | None) -> None: ...

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None: ...
