"""Start and end of a command's process: delayed garbage collection and a fast exit.

Loading torch and MLflow makes both slow (benchmarks/lifetime.py).
"""

import atexit
import gc
import os
import sys
from contextlib import suppress

# Loading torch, torchvision and MLflow creates about 950,000 objects that are never freed. Python
# would scan them for garbage repeatedly: 1.1 s of 4.8 s (benchmarks/lifetime.py).
_LOADED_OBJECTS = 900_000


def defer_gc() -> None:
    """Delay the first garbage collection until a command's modules are loaded.

    The first collection then exempts the loaded objects and restores Python's thresholds.
    """
    default_thresholds = gc.get_threshold()

    def freeze_loaded_objects(_phase: str, _info: dict[str, int]) -> None:
        gc.callbacks.remove(freeze_loaded_objects)
        gc.freeze()
        gc.set_threshold(*default_thresholds)

    gc.callbacks.append(freeze_loaded_objects)
    gc.set_threshold(_LOADED_OBJECTS, *default_thresholds[1:])


class FastExit:
    """Ends the process without the interpreter's cleanup of objects, which takes 1.4 s.

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
