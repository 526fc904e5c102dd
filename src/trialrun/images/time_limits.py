"""Time limits of items that threads compute, and what does not count: waiting for a store."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class TimedJob(Protocol):
    """What a thread computes item by item, each within a time limit."""

    def suspend(self) -> None:
        """Stop the current item's time."""
        ...

    def resume(self) -> None:
        """Start the current item's time again, from zero."""
        ...


_thread = threading.local()


def set_timed_job(job: TimedJob) -> None:
    """Set what the calling thread computes."""
    _thread.job = job


@contextmanager
def suspend_time_limit() -> Iterator[None]:
    """Exclude what follows from the current item's time: it has time limits of its own."""
    job: TimedJob | None = getattr(_thread, "job", None)
    if job is None:
        yield
        return
    job.suspend()
    try:
        yield
    finally:
        job.resume()
