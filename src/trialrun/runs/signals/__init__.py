"""Stop signals of a process: the first one stops it orderly, the second at once.

`handlers` has the context managers, `control` the state between the first signal and the end,
`watcher` the thread that enforces the time limits.
"""

from trialrun.runs.signals.control import StopRequest
from trialrun.runs.signals.handlers import (
    finish_step_on_signal,
    interrupt_on_signals,
    reraise_signal,
    stop_without_parent,
)

__all__ = [
    "StopRequest",
    "finish_step_on_signal",
    "interrupt_on_signals",
    "reraise_signal",
    "stop_without_parent",
]
