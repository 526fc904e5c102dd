"""The thread that sees signals while the main thread is busy, and enforces the time limits."""

import os
import signal
import socket
import threading
import time

from trialrun.launchers import find_launchers, is_alive
from trialrun.runs.signals.control import StopControl
from trialrun.runs.signals.exit_at_once import exit_at_once
from trialrun.signals import STOP_SIGNALS, run_emergency_actions

_POLL_SECONDS = 0.5  # for the parent processes
_STOPPING_POLL_SECONDS = 0.1  # for the time limits
# A process that is asked to stop is gone after ten seconds.
_STEP_SECONDS = 7.0  # for the step to end; then the exception is raised inside it
_STUCK_SECONDS = 8.0  # for the exception to be raised; then this thread ends the run
_EMERGENCY_SECONDS = 1.5  # for the run to be ended
_CLOSE = 0  # not a signal


class Watcher:
    """Reads the numbers of the signals that arrive; Python's C handler writes them to a socket.

    It also looks for the parent processes, if `watches_parent`: below `mlflow run` and torchrun,
    this process stops when they are gone.
    """

    def __init__(self, control: StopControl, *, watches_parent: bool) -> None:
        self._control = control
        # Here, not in the thread: there it would read no signal while a busy main thread keeps it
        # from importing psutil.
        self._launchers = find_launchers(os.environ) if watches_parent else []
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signal watcher", daemon=True)
        self._thread.start()
        _watchers.append(self)

    def close(self) -> None:
        """End the thread; call this in the main thread."""
        _watchers.remove(self)
        signal.set_wakeup_fd(self._fd_before)
        self._writer.send(bytes([_CLOSE]))
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _watch(self) -> None:
        launchers = self._launchers
        while True:
            for number in self._read_signals(self._find_timeout(bool(launchers))):
                if number == _CLOSE:
                    return
                self._count_signal(number)
            if launchers and not all(map(is_alive, launchers)):
                launchers = []
                self._control.stop_without_parent()
            self._check_limits()

    def _find_timeout(self, has_launchers: bool) -> float | None:
        control = self._control
        if control.arrivals.started is not None and not control.has_raised:
            return _STOPPING_POLL_SECONDS
        return _POLL_SECONDS if has_launchers else None

    def _read_signals(self, timeout: float | None) -> bytes:
        self._reader.settimeout(timeout)  # not select(), which fails above 1,024 open files
        try:
            return self._reader.recv(64)
        except TimeoutError:
            return b""

    def _count_signal(self, number: int) -> None:
        if number not in STOP_SIGNALS or signal.getsignal(number) is signal.SIG_IGN:
            return
        try:
            self._control.resent.remove(number)
        except ValueError:
            is_second = self._control.arrivals.add(number, time.monotonic())
            if is_second and self._control.ends_process:
                name = signal.Signals(number).name
                exit_at_once(f"stopped at once by a second signal, {name}")

    def _check_limits(self) -> None:
        control = self._control
        if control.arrivals.started is None or control.has_raised:
            return
        seconds = time.monotonic() - control.arrivals.started
        if seconds > _STEP_SECONDS and not control.is_overdue:
            control.is_overdue = True
            control.resend_signal(self._find_signal())
        if seconds > _STUCK_SECONDS and control.ends_process:
            self._end_stuck()

    def _find_signal(self) -> signal.Signals:
        """Return the signal that asked for the stop; its handler may not have run yet."""
        return signal.Signals(self._control.arrivals.first_signal or signal.SIGTERM)

    def _end_stuck(self) -> None:
        """End the run in another thread and then the process, unless the exception was raised."""
        name = self._find_signal().name
        thread = threading.Thread(target=run_emergency_actions, args=[name], daemon=True)
        thread.start()
        thread.join(_EMERGENCY_SECONDS)
        if not self._control.has_raised:
            exit_at_once(f"stopped by {name}; the current operation did not end in time")


_watchers: list[Watcher] = []  # at most one


def _detach_child() -> None:
    """Keep the signals of a forked process from the watcher of its parent."""
    if _watchers:
        _watchers.clear()
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_detach_child)
