"""Context managers that turn a stop signal into one exception in the main thread."""

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trialrun.errors import RunInterruptedError
from trialrun.runs.signals.control import StopControl, StopRequest, make_arrivals
from trialrun.runs.signals.watcher import Watcher
from trialrun.signals import STOP_SIGNALS

_open_controls: list[StopControl] = []  # of the outermost block; at most one


@contextmanager
def interrupt_on_signals(
    *, ends_process: bool = True, is_relayed: bool = False, watches_parent: bool = True
) -> Iterator[None]:
    """Raise `RunInterruptedError` at the first stop signal; the second ends the process at once.

    Two signals of different kinds within three seconds count as one: `mlflow run` sends its child
    SIGINT and then SIGTERM. Below `mlflow run` and torchrun, the end of these counts as SIGTERM. A
    process that does not react is ended after ten seconds.

    A process started by nohup keeps ignoring SIGHUP. A block inside another one does nothing. Nor
    does a block outside the main thread, where Python does not allow signal handlers.

    Args:
        ends_process: Whether a second signal, or a call that does not return, ends the process.
        is_relayed: Whether the parent passes signals on, so that the same one may arrive twice.
        watches_parent: Whether to stop when the launcher of this process is gone.
    """
    if threading.current_thread() is not threading.main_thread() or _open_controls:
        yield
        return
    control = StopControl(ends_process, make_arrivals(is_relayed=is_relayed))
    handlers_before = {
        number: signal.signal(number, control.handle_signal)
        for number in STOP_SIGNALS
        if not _is_nohup(number)
    }
    hook_before, sys.unraisablehook = sys.unraisablehook, control.resend_dropped
    _open_controls.append(control)
    watcher = Watcher(control, watches_parent=watches_parent)
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        for number, handler in handlers_before.items():
            # After a stop the process is exiting: the handlers of before must not act.
            signal.signal(number, control.handle_late_signal if control.has_raised else handler)
        watcher.close()
        _open_controls.remove(control)


@contextmanager
def reraise_signal() -> Iterator[None]:
    """Like `interrupt_on_signals`, for a process of the caller: its own handlers act afterwards.

    Once the block has ended its run, the handlers from before are restored and the signal is sent
    again: SIGINT raises `KeyboardInterrupt`, SIGTERM ends the process, or the caller's handlers
    run. Later signals are ignored until then.
    """
    if threading.current_thread() is not threading.main_thread() or _open_controls:
        yield
        return
    handlers_before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with interrupt_on_signals(ends_process=False):
            yield
    except RunInterruptedError as interrupt:
        _restore_handlers(handlers_before)
        signal.raise_signal(signal.Signals[interrupt.signal_name])
        raise
    finally:
        _restore_handlers(handlers_before)


@contextmanager
def finish_step_on_signal() -> Iterator[StopRequest]:
    """Let the first stop signal set the request instead of raising; raise it after the step.

    A signal that was not checked within seven seconds raises `RunInterruptedError` inside the step,
    and at the end of the block if no step follows.
    """
    control = _open_controls[0] if _open_controls else None
    if threading.current_thread() is not threading.main_thread():
        control = None
    request = StopRequest(control)
    if control is None:
        yield request
        return
    control.request = request
    try:
        yield request
    finally:
        control.request = None
        if not control.has_raised:
            request.raise_if_set()


def stop_without_parent() -> None:
    """Stop the block of this process as at SIGTERM, unless it is stopping; from any thread."""
    for control in _open_controls:
        control.stop_without_parent()


def _restore_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # not installed from Python
            signal.signal(number, handler)


def _is_nohup(number: signal.Signals) -> bool:
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
