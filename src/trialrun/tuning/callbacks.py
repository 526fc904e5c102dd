"""What a search tells while it is under way."""

from typing import Protocol

from trialrun.runs.callbacks import NoOpCallback, RunCallback


class SearchCallback(RunCallback, Protocol):
    """Someone who watches a search."""

    def trial(self, text: str) -> None:
        """A trial has ended, of this machine or another's."""


class NoOpSearchCallback(NoOpCallback):
    """Watches and says nothing."""

    def trial(self, text: str) -> None:
        """Nothing."""
