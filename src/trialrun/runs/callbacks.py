"""What a run tells while it is under way; the command line shows it, a library call is silent."""

from typing import Protocol

from trialrun.engine.early_stopping import EpochStatus

READING, DECODING = "Reading files", "Decoding images"


class RunCallback(Protocol):
    """Someone who watches a run."""

    def opened(self, run_name: str, run_id: str) -> None:
        """A run has been opened in MLflow."""

    def note(self, text: str) -> None:
        """Something a person should know."""

    def scanning(self, what: str, num_images: int) -> None:
        """So many images of a set are about to be read or decoded: `what` says which."""

    def scanned(self, num_images: int) -> None:
        """So many more have been."""

    def epoch(self, status: EpochStatus, epochs: int) -> None:
        """An epoch is done."""


class NoOpCallback:
    """Watches and says nothing."""

    def opened(self, run_name: str, run_id: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def scanning(self, what: str, num_images: int) -> None:
        """Nothing."""

    def scanned(self, num_images: int) -> None:
        """Nothing."""

    def epoch(self, status: EpochStatus, epochs: int) -> None:
        """Nothing."""
