"""The end of a process at a second signal: no process that it started remains."""

import os
import select
import sys
from typing import NoReturn

from trialrun.errors import RunInterruptedError

_STATUS_FIXER = "trialrun.tracking.killed_status"  # ends by itself, seconds after this process
_HINT = "If its MLflow run still has the status RUNNING, `trialrun doctor --fix` ends it."


def exit_at_once(reason: str) -> NoReturn:
    """Kill the child processes and exit with 75; neither clean up nor wait for anything."""
    try:
        _print_reason(reason)
        _kill_children()
    finally:
        os._exit(RunInterruptedError.exit_code)


def _kill_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            if _STATUS_FIXER not in child.cmdline():
                child.kill()
        except psutil.Error:  # has ended
            continue


def _print_reason(reason: str) -> None:
    """Print the two lines of an error, unless the stream is full and writing would wait."""
    try:
        stream = sys.stderr.fileno()
        if select.select([], [stream], [], 0)[1]:
            os.write(stream, f"Error: Interrupted: {reason}\nHint: {_HINT}\n".encode())
    except (OSError, ValueError, AttributeError):
        return
