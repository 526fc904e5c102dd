"""The signals that ask a process to stop, and what to do if it does not react to them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Ctrl-C, `kill` or a cluster's scheduler, and a closed terminal. Windows has no SIGHUP.
STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
)

EmergencyAction = Callable[[str], None]  # called with the name of the signal
_emergency_actions: list[EmergencyAction] = []


@contextmanager
def act_if_stuck(action: EmergencyAction) -> Iterator[None]:
    """Let another thread call `action` if a signal arrives in the block and has no effect.

    A call into C++ code, such as a step that waits for a lost rank, keeps the main thread from
    handling a signal. The process is then ended without it.
    """
    _emergency_actions.append(action)
    try:
        yield
    finally:
        _emergency_actions.remove(action)


def run_emergency_actions(signal_name: str) -> None:
    """Call the actions of the open blocks, the innermost first."""
    for action in reversed(list(_emergency_actions)):
        action(signal_name)
