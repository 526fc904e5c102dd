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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

ITEM_SECONDS = 30.0  # the largest image that is let through takes about 2 s to decode
TOO_SLOW = f"took longer than {ITEM_SECONDS:g} seconds"
# Items that may wait to be taken, a thread and in all: bounds what is in memory, which for whole
# photographs is some 8 MB each.
_AHEAD, _AHEAD_IN_ALL = 32, 64
_LOOK_SECONDS = 0.5
# A look that lasts so much longer was not cut short by work: the whole process had been stopped.
_STOPPED_SECONDS = 2.0


@dataclass(slots=True)
class _Job(Generic[Item, Made]):
    """Some items on their way; `began` says when the one now worked at was taken, 0 for none."""

    items: Sequence[Item]
    made: list[Made] = field(default_factory=list)
    began: float = 0.0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    _is_given_up: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, made: Made) -> bool:
        """Take what was made of the next item; False where nobody waits for it any more."""
        with self._lock:
            if not self._is_given_up:
                self.made.append(made)
                self.began = time.monotonic()
            return not self._is_given_up

    def give_up(self, not_after: float) -> bool:
        """Wait no longer if the item now worked at was taken before `not_after`."""
        with self._lock:
            is_late = 0 < self.began < not_after and not self.done.is_set()
            self._is_given_up = is_late
            return is_late


@dataclass(slots=True)
class _ItemTimeout:
    """How long an item may take; the time during which the process was stopped does not count."""

    seconds: float
    _resumed: float = 0.0

    def outlasts(self, job: _Job[Item, Made]) -> bool:
        """Wait for a job; False where it has been at one item for too long."""
        look = min(self.seconds, _LOOK_SECONDS)
        while not self._has_ended(job, look):
            now = time.monotonic()
            if now - self.seconds > self._resumed and job.give_up(now - self.seconds):
                return False
        return True

    def _has_ended(self, job: _Job[Item, Made], look: float) -> bool:
        began = time.monotonic()
        has_ended = job.done.wait(look)
        if (now := time.monotonic()) > began + look + _STOPPED_SECONDS:
            self._resumed = now  # all clocks begin anew, those of the jobs that come next as well
        return has_ended


def count_threads() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    *,
    threads: int,
    late: Callable[[Item], Made],
    seconds: float = ITEM_SECONDS,
    together: int = 1,
) -> Iterator[Made]:
    """`make(item)` of every item, in the items' order, made by `threads` threads.

    `late(item)` stands in for an item that took longer than `seconds`. What `make` raises is raised
    here, in its item's turn. A thread takes `together` items at once: threads that hand over after
    every short item wait for each other longer than they work.
    """
    team = _ThreadPool(make, threads)
    waiting: deque[_Job[Item, Made]] = deque()
    patience = _ItemTimeout(seconds)
    num_ahead = _jobs_ahead(threads, together)
    jobs = iterate_chunks(items, together)
    try:
        while True:
            for some in islice(jobs, max(num_ahead - len(waiting), 0)):
                waiting.append(team.begin(some))
            if not waiting:
                return
            job = waiting.popleft()
            if patience.outlasts(job):
                yield from job.made
            else:
                yield from job.made
                yield late(job.items[len(job.made)])
                team.replace_one()
                waiting.appendleft(team.begin(job.items[len(job.made) + 1 :]))
            if job.error is not None:
                raise job.error
    finally:
        team.dismiss()


def iterate_chunks(items: Iterable[Item], together: int) -> Iterator[list[Item]]:
    """Lists of `together` items, the last one shorter; itertools has it from Python 3.12 on."""
    remaining = iter(items)
    while some := list(islice(remaining, together)):
        yield some


def _jobs_ahead(threads: int, together: int) -> int:
    """At least two a thread, so that none waits for whoever takes the results."""
    return max(min(threads * _AHEAD, _AHEAD_IN_ALL) // together, 2 * threads)


class _ThreadPool(Generic[Item, Made]):
    """Daemon threads that take jobs from a queue until they are dismissed."""

    def __init__(self, make: Callable[[Item], Made], threads: int) -> None:
        self._make = make
        self._jobs: queue.SimpleQueue[_Job[Item, Made] | None] = queue.SimpleQueue()
        self._num_begun = 0
        for _ in range(max(threads, 1)):
            self.replace_one()

    def begin(self, items: Sequence[Item]) -> _Job[Item, Made]:
        """Hand items to whoever is free first."""
        job: _Job[Item, Made] = _Job(items)
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
            job.began = time.monotonic()
            try:
                for item in job.items:
                    if not job.add(self._make(item)):
                        return  # another thread has taken this one's place
            except BaseException as error:  # raised again where the result is taken
                job.error = error
            job.done.set()
