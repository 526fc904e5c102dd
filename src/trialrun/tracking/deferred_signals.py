"""Deferred signals: a block that opens or ends a run is not interrupted.

MLflow opens a run as RUNNING. If a signal interrupted that call, the run's id would be lost and the
run would stay RUNNING forever.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trialrun.signals import STOP_SIGNALS


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP until the block ends, then raise the first one received.

    The signal mask of the process cannot do this: other threads would receive the signals. Outside
    the main thread this does nothing, because Python runs signal handlers only in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    not_handled = (signal.SIG_IGN, None)
    deferred = [number for number in STOP_SIGNALS if signal.getsignal(number) not in not_handled]
    handlers = {number: signal.signal(number, remember) for number in deferred}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            _handle_signal(received[0])


def _handle_signal(number: int) -> None:
    """Call the handler, or send the signal again if the handler is not a Python function.

    A signal that is sent again would count as a second one.
    """
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)
    else:
        signal.raise_signal(number)
