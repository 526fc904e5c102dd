"""Callbacks of a search: those of a run, and those of its trials."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from trialrun.runs.callbacks import NoOpCallback, RunCallback


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """A trial that has ended: its number, the searched settings and the objectives by name.

    `replicate` is the index of the seed of a replicate of trial `number`. `problem` is why the
    trial has no objectives; empty for a completed trial. `is_best` marks the best trial so far.
    """

    number: int
    replicate: int | None
    settings: Mapping[str, Any]
    objectives: Mapping[str, float]
    problem: str
    is_best: bool


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """How many trials of a search have ended, of how many that were requested."""

    num_done: int
    num_trials: int


class SearchCallback(RunCallback, Protocol):
    """Receives the progress of a search; `on_batch` and `on_epoch_end` are those of its trials.

    Only trials that this process trains itself report their batches.
    """

    def on_trials(self, counts: TrialCounts) -> None:
        """Look at the number of trials: some times per second, or after each trial."""

    def on_trial_end(self, report: TrialReport) -> None:
        """Handle the end of a trial, on this machine or another."""


class NoOpSearchCallback(NoOpCallback):
    """Ignores the progress of a search."""

    def on_trials(self, counts: TrialCounts) -> None: ...

    def on_trial_end(self, report: TrialReport) -> None: ...
