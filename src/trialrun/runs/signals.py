"""Context managers that turn a stop signal into one exception in the main thread."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trialrun.errors import RunInterruptedError
from trialrun.signals import STOP_SIGNALS

_RETRY_SECONDS = 0.05


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Raise `RunInterruptedError` at the first stop signal and ignore all later ones.

    `mlflow run` sends its child SIGINT and then SIGTERM. The second signal must not interrupt the
    code that ends the run, so the signals stay ignored after the block: the process is exiting.
    A process started by nohup keeps ignoring SIGHUP. Outside the main thread, where Python does not
    allow signal handlers, the block does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers_before = {
        number: signal.signal(number, _raise_interrupt)
        for number in STOP_SIGNALS
        if not _is_nohup(number)
    }
    hook_before, sys.unraisablehook = sys.unraisablehook, _resend_signal
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        for number, handler in handlers_before.items():
            if signal.getsignal(number) is _raise_interrupt:
                signal.signal(number, handler)


@contextmanager
def reraise_signal() -> Iterator[None]:
    """Like `interrupt_on_signals`, for a process of the caller: its own handlers act afterwards.

    Once the block has ended its run, the handlers from before are restored and the signal is sent
    again: SIGINT raises `KeyboardInterrupt`, SIGTERM ends the process, or the caller's handlers
    run.
    """
    handlers_before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with interrupt_on_signals():
            yield
    except RunInterruptedError as interrupt:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers_before.items():
                signal.signal(number, handler)
            signal.raise_signal(signal.Signals[interrupt.signal_name])
        raise


def _is_nohup(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def _raise_interrupt(number: int, _frame: FrameType | None) -> None:
    if _is_importing_torch():
        timer = threading.Timer(_RETRY_SECONDS, signal.raise_signal, [number])
        timer.daemon = True
        timer.start()
        return
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, _ignore_signal)
    raise RunInterruptedError(signal.Signals(number).name)


def _is_importing_torch() -> bool:
    """Whether torch is being imported: an exception in its C++ code would abort the process."""
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. Child processes do not inherit this handler, unlike SIG_IGN.

    Nor does Python report an error for a signal that is already pending, as it does with SIG_IGN.
    """


def _resend_signal(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send the signal again where Python dropped its exception.

    A signal handler runs between any two bytecodes, also inside a finalizer or the callback of a
    weak reference. Python only reports an exception that is raised there.
    """
    if isinstance(unraisable.exc_value, RunInterruptedError):
        number = signal.Signals[unraisable.exc_value.signal_name]
        signal.signal(number, _raise_interrupt)
        signal.raise_signal(number)
    else:
        sys.__unraisablehook__(unraisable)
