"""Callbacks of a search: those of a run, and one per finished trial."""

from typing import Protocol

from trialrun.runs.callbacks import NoOpCallback, RunCallback


class SearchCallback(RunCallback, Protocol):
    """Receives the progress of a search."""

    def on_trial_end(self, text: str) -> None:
        """Handle the end of a trial, on this machine or another."""


class NoOpSearchCallback(NoOpCallback):
    """Ignores the progress of a search."""

    def on_trial_end(self, text: str) -> None: ...
