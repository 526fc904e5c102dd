"""Ordered parallel map with a timeout per item.

The standard library's pool waits for its threads when the process ends. These threads are daemons:
a thread that exceeds the timeout is abandoned and a new one replaces it. An abandoned thread keeps
its core and memory until the process ends.
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

from trialrun.images.time_limits import set_timed_job

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEM_TIMEOUT_SECONDS = 30.0  # the largest allowed image takes about 2 s to decode
TIMEOUT_REASON = f"took longer than {ITEM_TIMEOUT_SECONDS:g} seconds"
# Limits on queued items, per thread and in total. They bound memory: a photograph has about 8 MB.
_MAX_QUEUED_PER_THREAD, _MAX_QUEUED = 32, 64
_POLL_SECONDS = 0.5
# A poll that lasts this much longer than planned shows that the whole process was suspended.
_SUSPENDED_SECONDS = 2.0


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    """Items for one thread; `started` is the current item's start time (monotonic), 0 if none."""

    items: Sequence[Item]
    results: list[Result] = field(default_factory=list)
    started: float = 0.0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)
    _is_abandoned: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_result(self, result: Result) -> bool:
        """Store the current item's result; return False if the job was abandoned."""
        with self._lock:
            if not self._is_abandoned:
                self.results.append(result)
                self.started = time.monotonic()
            return not self._is_abandoned

    def suspend(self) -> None:
        """Stop the current item's time."""
        with self._lock:
            self.started = 0.0

    def resume(self) -> None:
        """Start the current item's time again, from zero."""
        with self._lock:
            self.started = time.monotonic()

    def abandon_if_late(self, deadline: float) -> bool:
        """Abandon the job if its current item was started before `deadline`."""
        with self._lock:
            is_late = 0 < self.started < deadline and not self.done.is_set()
            self._is_abandoned = is_late
            return is_late


@dataclass(slots=True)
class _ItemTimeout:
    """Time limit per item, in seconds; time during which the process was suspended is excluded."""

    seconds: float
    _resumed: float = 0.0

    def wait(self, job: _Job[Item, Result]) -> bool:
        """Wait for a job; return False if one of its items exceeded the limit."""
        poll_seconds = min(self.seconds, _POLL_SECONDS)
        while not self._poll(job, poll_seconds):
            now = time.monotonic()
            if now - self.seconds > self._resumed and job.abandon_if_late(now - self.seconds):
                return False
        return True

    def _poll(self, job: _Job[Item, Result], poll_seconds: float) -> bool:
        started = time.monotonic()
        is_done = job.done.wait(poll_seconds)
        if (now := time.monotonic()) > started + poll_seconds + _SUSPENDED_SECONDS:
            self._resumed = now  # restarts the time limit of this job and of all later ones
        return is_done


def count_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    on_timeout: Callable[[Item], Result],
    timeout_seconds: float = ITEM_TIMEOUT_SECONDS,
    chunk_size: int = 1,
    max_jobs: int | None = None,
) -> Iterator[Result]:
    """Yield `function(item)` for every item, in the items' order, computed by `threads` threads.

    Yields `on_timeout(item)` for an item that exceeds `timeout_seconds`. An exception in `function`
    is raised in its item's turn. A thread takes `chunk_size` items at once: handing over after
    every short item costs more time than the work itself. At most `max_jobs` chunks wait or are
    computed at once; None is a number that suits images.
    """
    pool = _ThreadPool(function, threads)
    pending: deque[_Job[Item, Result]] = deque()
    timeout = _ItemTimeout(timeout_seconds)
    max_pending = max_jobs or _choose_max_jobs(threads, chunk_size)
    chunks = iterate_chunks(items, chunk_size)
    try:
        while True:
            for chunk in islice(chunks, max(max_pending - len(pending), 0)):
                pending.append(pool.submit(chunk))
            if not pending:
                return
            job = pending.popleft()
            is_done = timeout.wait(job)
            yield from job.results
            if not is_done:
                yield on_timeout(job.items[len(job.results)])
                pool.start_thread()
                pending.appendleft(pool.submit(job.items[len(job.results) + 1 :]))
            if job.error is not None:
                raise job.error
    finally:
        pool.shut_down()


def iterate_chunks(items: Iterable[Item], chunk_size: int) -> Iterator[list[Item]]:
    """Yield lists of `chunk_size` items; the last may be shorter (itertools.batched needs 3.12)."""
    remaining = iter(items)
    while chunk := list(islice(remaining, chunk_size)):
        yield chunk


def _choose_max_jobs(threads: int, chunk_size: int) -> int:
    """Return at least two jobs per thread, so that no thread waits for the consumer."""
    return max(min(threads * _MAX_QUEUED_PER_THREAD, _MAX_QUEUED) // chunk_size, 2 * threads)


class _ThreadPool(Generic[Item, Result]):
    """Daemon threads that take jobs from a queue until `shut_down`."""

    def __init__(self, function: Callable[[Item], Result], threads: int) -> None:
        self._function = function
        self._jobs: queue.SimpleQueue[_Job[Item, Result] | None] = queue.SimpleQueue()
        self._num_started = 0
        for _ in range(max(threads, 1)):
            self.start_thread()

    def submit(self, items: Sequence[Item]) -> _Job[Item, Result]:
        """Queue items as one job."""
        job: _Job[Item, Result] = _Job(items)
        self._jobs.put(job)
        return job

    def start_thread(self) -> None:
        """Start a thread: a first one, or the replacement of an abandoned one."""
        self._num_started += 1
        threading.Thread(target=self._work, daemon=True).start()

    def shut_down(self) -> None:
        """Drop queued jobs and let idle threads end; abandoned threads keep running."""
        while not self._jobs.empty():
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._num_started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.started = time.monotonic()
            set_timed_job(job)
            try:
                for item in job.items:
                    if not job.add_result(self._function(item)):
                        return  # abandoned: another thread has replaced this one
            except BaseException as error:  # raised again by `map_in_order`
                job.error = error
            job.done.set()
