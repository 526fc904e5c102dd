"""SIGINT and SIGTERM as an exception in the main thread, once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trialrun.errors import CutBySignalError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def cut_by_signals() -> Iterator[None]:
    """Raise `CutBySignalError` at the first SIGINT or SIGTERM; ignore those that follow.

    `mlflow run` sends its child both, one after the other: the second must not break the closing of
    the run. Outside the main thread, where Python takes no handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cut(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise CutBySignalError(signal.Signals(number).name)

    before = {each: signal.signal(each, cut) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
