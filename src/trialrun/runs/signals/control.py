"""The state of a process from its first stop signal to its end."""

import os
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import FrameType

from trialrun.errors import RunInterruptedError
from trialrun.runs.signals.arrivals import Arrivals
from trialrun.runs.signals.exit_at_once import exit_at_once

_RETRY_SECONDS = 0.05
_AGREED_SIGNAL = "SIGTERM"  # reported by a rank that stops because another one received a signal


@dataclass(slots=True, eq=False)
class StopControl:
    """Handles the stop signals of one process.

    The handlers run in the main thread and raise; `arrivals` is for the watcher's thread, which
    also runs while the main thread is inside C++ code.
    """

    ends_process: bool  # false in a program that calls the library: it decides on its end
    arrivals: Arrivals
    request: "StopRequest | None" = None  # inside `finish_step_on_signal`
    has_raised: bool = False
    is_overdue: bool = False  # the step takes too long: raise inside it
    resent: deque[int] = field(default_factory=deque)  # signals from this process itself

    def handle_signal(self, number: int, _frame: FrameType | None) -> None:
        """Set the request of the block, or raise; later signals are left to the watcher.

        Raises:
            RunInterruptedError: The first signal outside a block, or a step that takes too long.
        """
        if self.has_raised:
            return
        if _is_importing_torch():
            timer = threading.Timer(_RETRY_SECONDS, self.resend_signal, [number])
            timer.daemon = True
            timer.start()
            return
        name = signal.Signals(number).name
        if self.request is not None and not self.is_overdue:
            self.request.signal_name = self.request.signal_name or name
            return
        self.has_raised = True
        raise RunInterruptedError(name)

    def handle_late_signal(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal after the block: the process is exiting, and a second one ends it."""
        if self.arrivals.add(number, time.monotonic()) and self.ends_process:
            exit_at_once(f"stopped at once by a second signal, {signal.Signals(number).name}")

    def resend_signal(self, number: int) -> None:
        """Let the main thread handle a signal again; it does not count as another one.

        The signal goes to the main thread: a wait for a file ends only where its own thread is
        interrupted.
        """
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        self.resent.append(number)
        signal.pthread_kill(main_thread, number)

    def stop_without_parent(self) -> None:
        """Stop as at SIGTERM, unless the process is stopping."""
        if self.arrivals.started is None:
            self.arrivals.start(time.monotonic())
            self.resend_signal(signal.SIGTERM)

    def resend_dropped(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Send the signal again where Python dropped its exception; a hook for `sys`.

        A signal handler runs between any two bytecodes, also inside a finalizer or the callback of
        a weak reference. Python only reports an exception that is raised there.
        """
        if isinstance(unraisable.exc_value, RunInterruptedError):
            self.has_raised = False
            self.resend_signal(signal.Signals[unraisable.exc_value.signal_name])
        else:
            sys.__unraisablehook__(unraisable)


@dataclass(slots=True, eq=False)
class StopRequest:
    """Whether a signal has asked this process to stop after the current step."""

    _control: StopControl | None = None  # None outside the main thread, where no signal arrives
    signal_name: str | None = None

    @property
    def is_set(self) -> bool:
        """Whether a signal has arrived in the block."""
        return self.signal_name is not None

    def raise_if_set(self) -> None:
        """Raise `RunInterruptedError` if a signal has arrived."""
        if self.signal_name is not None:
            self._raise(RunInterruptedError(self.signal_name))

    def raise_agreed(self) -> None:
        """Raise on every rank, because a signal has arrived at one of them."""
        error = RunInterruptedError(self.signal_name or _AGREED_SIGNAL)
        error.is_agreed = True
        self._raise(error)

    def _raise(self, error: RunInterruptedError) -> None:
        if self._control is not None:
            self._control.arrivals.start(time.monotonic())
            self._control.has_raised = True
        raise error


def make_arrivals(*, is_relayed: bool) -> Arrivals:
    """Return the record of a process, below torchrun with `is_relayed` set."""
    return Arrivals(is_relayed=is_relayed or "TORCHELASTIC_RUN_ID" in os.environ)


def _is_importing_torch() -> bool:
    """Whether torch is being imported: an exception in its C++ code would abort the process."""
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
