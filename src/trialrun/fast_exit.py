"""The end of a process without the interpreter's cleanup of objects.

With torch and MLflow loaded it takes 1.4 s (benchmarks/lifetime.py).
"""

import atexit
import os
import sys
from contextlib import suppress


class FastExit:
    """Ends the process without the interpreter's cleanup of objects.

    Create it first: its exit handler then runs last, after threads have been joined and all later
    exit handlers have run. If a stream cannot be flushed, the interpreter exits as usual: it prints
    the error and exits with 120.
    """

    def __init__(self) -> None:
        self.exit_code = 1
        atexit.register(self._exit)

    def _exit(self) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.exit_code)
