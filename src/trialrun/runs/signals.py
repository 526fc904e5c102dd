"""What asks a process to end (SIGINT, SIGTERM, SIGHUP) as an exception in the main thread, once."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trialrun.errors import CutBySignalError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise `CutBySignalError` at the first signal; ignore those that follow.

    `mlflow run` sends its child both, one after the other: the second must not break the closing of
    the run, so after the first they are ignored for good: the process is leaving. A process that
    was started by nohup goes on ignoring SIGHUP. Outside the main thread, where Python takes no
    handlers, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        each: signal.signal(each, _raise_interrupt) for each in _SIGNALS if not _is_nohup(each)
    }
    unraisable, sys.unraisablehook = sys.unraisablehook, _resend_signal
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for each, handler in before.items():
            if signal.getsignal(each) is _raise_interrupt:
                signal.signal(each, handler)


@contextmanager
def reraise_signal() -> Iterator[None]:
    """As `cut_by_signals` in a process that is not ours: the caller's handling has the last word.

    Once the block has ended its run, the signal comes again as it would have come without us:
    SIGINT as `KeyboardInterrupt`, SIGTERM as the end of the process, or to the caller's handlers.
    """
    before = {each: signal.getsignal(each) for each in _SIGNALS}
    try:
        with interrupt_on_signals():
            yield
    except CutBySignalError as cut:
        if threading.current_thread() is threading.main_thread():
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(signal.Signals[cut.signal_name])
        raise


def _is_nohup(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def _raise_interrupt(number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _ignore_signal)
    raise CutBySignalError(signal.Signals(number).name)


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Unlike SIG_IGN not inherited by children, nor complained of when a signal is on its way."""


def _resend_signal(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send the signal once more where Python dropped its exception.

    A handler runs between any two bytecodes, those of a finaliser or a weak reference's callback
    among them, and what is raised there is only reported.
    """
    if isinstance(unraisable.exc_value, CutBySignalError):
        number = signal.Signals[unraisable.exc_value.signal_name]
        signal.signal(number, _raise_interrupt)
        signal.raise_signal(number)
    else:
        sys.__unraisablehook__(unraisable)
