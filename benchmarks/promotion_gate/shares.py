"""Shares of simulated test sets with a property, and the processes that count them."""

import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Share:
    """The number of test sets with a property, among those drawn."""

    count: int
    num_drawn: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.count / self.num_drawn

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of the share; Laplace's estimate, which is not 0 for a count of 0."""
        estimate = (self.count + 1) / (self.num_drawn + 2)
        return float(np.sqrt(estimate * (1 - estimate) / self.num_drawn))

    def __str__(self) -> str:
        """Return the share and its error in percent."""
        return f"{100 * self.value:.1f} ± {100 * self.monte_carlo_error:.1f}"


def make_generator(description: object) -> np.random.Generator:
    """Return random numbers that depend on the text of the description alone."""
    return np.random.default_rng(zlib.crc32(str(description).encode()))


def run_tasks(tasks: Iterable[Callable[[], Result]]) -> list[Result]:
    """Return the results of the tasks, which run in forked processes, one per core."""
    _tasks[:] = tasks  # the processes inherit the tasks, whose arrays are too large to send
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        return pool.map(_run_task, range(len(_tasks)), chunksize=1)


_tasks: list[Callable[[], Any]] = []


def _run_task(number: int) -> Any:
    return _tasks[number]()
