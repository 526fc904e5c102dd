"""Many images at once, in order, by threads that a hanging decoder cannot take with it.

The standard library's pool waits for its threads when the process ends; these are daemons, and one
that has been at an image for too long is given up: it keeps its core and its memory until the
process ends, a new thread takes its place, and the image counts as timed out.
"""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

ITEM_SECONDS = 30.0  # the largest image that is let through takes about 2 s to decode
TOO_SLOW = f"took longer than {ITEM_SECONDS:g} seconds"
_AHEAD = 32  # items a thread that may wait to be taken: bounds what is in memory
_LOOK_SECONDS = 0.5


@dataclass(slots=True)
class _Job(Generic[Item, Made]):
    """One item on its way: `started` is 0 until a thread has taken it."""

    item: Item
    started: float = 0.0
    made: Made | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


def num_threads() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    threads: int,
    late: Callable[[Item], Made],
    seconds: float = ITEM_SECONDS,
) -> Iterator[Made]:
    """`make(item)` of every item, in the items' order, made by `threads` threads.

    `late(item)` stands in for an item that took longer than `seconds`. What `make` raises is raised
    here, in its item's turn.
    """
    team = _Team(make, threads)
    waiting: deque[_Job[Item, Made]] = deque()
    remaining = iter(items)
    try:
        while True:
            for item in islice(remaining, threads * _AHEAD - len(waiting)):
                waiting.append(team.begin(item))
            if not waiting:
                return
            job = waiting.popleft()
            if not _finished(job, seconds):
                team.replace_one()
                yield late(job.item)
            elif job.error is not None:
                raise job.error
            else:
                yield job.made  # type: ignore[misc]  # set, since the job ended without an error
    finally:
        team.dismiss()


def _finished(job: _Job[Item, Made], seconds: float) -> bool:
    """Wait for a job; False where it has been under way for longer than `seconds`."""
    while not job.done.wait(min(seconds, _LOOK_SECONDS)):
        if job.started and time.monotonic() - job.started > seconds:
            return job.done.is_set()
    return True


class _Team(Generic[Item, Made]):
    """Daemon threads that take jobs from a queue until they are dismissed."""

    def __init__(self, make: Callable[[Item], Made], threads: int) -> None:
        self._make = make
        self._jobs: queue.SimpleQueue[_Job[Item, Made] | None] = queue.SimpleQueue()
        self._num_begun = 0
        for _ in range(max(threads, 1)):
            self.replace_one()

    def begin(self, item: Item) -> _Job[Item, Made]:
        """Hand an item to whoever is free first."""
        job: _Job[Item, Made] = _Job(item)
        self._jobs.put(job)
        return job

    def replace_one(self) -> None:
        """Another thread, for one that is no longer counted on."""
        self._num_begun += 1
        threading.Thread(target=self._work, daemon=True).start()

    def dismiss(self) -> None:
        """Let the threads end; those that hang are left behind."""
        while not self._jobs.empty():  # what nobody will take any more
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._num_begun):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.started = time.monotonic()
            try:
                job.made = self._make(job.item)
            except BaseException as error:  # raised again where the result is taken
                job.error = error
            job.done.set()
