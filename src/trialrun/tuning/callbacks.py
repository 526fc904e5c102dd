"""What a search tells while it is under way."""

from typing import Protocol

from trialrun.runs.callbacks import NoOpCallback, RunCallback


class SearchCallback(RunCallback, Protocol):
    """Someone who watches a search."""

    def on_trial_end(self, text: str) -> None:
        """A trial has ended, of this machine or another's."""


class NoOpSearchCallback(NoOpCallback):
    """Watches and says nothing."""

    def on_trial_end(self, text: str) -> None:
        """Nothing."""
