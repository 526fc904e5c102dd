"""What a search tells while it is under way."""

from typing import Protocol

from trialrun.runs.callbacks import Observer, Silent


class SearchObserver(Observer, Protocol):
    """Someone who watches a search."""

    def trial(self, text: str) -> None:
        """A trial has ended, of this machine or another's."""


class SilentSearch(Silent):
    """Watches and says nothing."""

    def trial(self, text: str) -> None:
        """Nothing."""
