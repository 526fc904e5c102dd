"""Signals that wait: no run is left half opened or half ended.

MLflow opens a run as RUNNING. Were the call that does so cut, nobody would know the run's id, and
it would stay RUNNING for good.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trialrun.signals import STOP_SIGNALS


@contextmanager
def defer_signals() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP wait until the block is over, and send the first of them then.

    Not by the process's signal mask: other threads would take them. Outside the main thread, where
    Python runs no handlers, there is nothing to hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    heeded = [each for each in STOP_SIGNALS if signal.getsignal(each) not in (signal.SIG_IGN, None)]
    before = {each: signal.signal(each, note) for each in heeded}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if came:
            signal.raise_signal(came[0])
