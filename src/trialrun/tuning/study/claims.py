"""Answers of the queue of a study to a worker that asks for a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True, slots=True)
class ClaimedTrial:
    """A trial that a worker has claimed.

    `trial_id` is the storage's id, `seed_number` the number that the seed derives from, and
    `earlier_tries` are the numbers of the trials that this one retries, the first one first.
    """

    trial: "Trial"
    trial_id: int
    settings: Mapping[str, Any]
    seed_number: int
    earlier_tries: Sequence[int]

    @property
    def number(self) -> int:
        """The trial's number in its study, from 0."""
        return self.trial.number


@dataclass(frozen=True, slots=True)
class NothingYet:
    """No trial can start now: the running trials may be the last, or one may need a retry."""


@dataclass(frozen=True, slots=True)
class Finished:
    """No further trial starts."""
