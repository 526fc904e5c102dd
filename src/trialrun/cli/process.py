"""The two ends of a command's process, which torch and MLflow make slow: loading and leaving."""

import atexit
import gc
import os
import sys
from contextlib import suppress

# Loading torch, torchvision and MLflow makes about 950,000 objects, and all stay. Python would
# search them for garbage again and again: 1.1 s of 4.8 s (benchmarks/lifetime.py).
_LOADED_OBJECTS = 900_000


def defer_gc() -> None:
    """Collect no garbage until a command's modules are loaded; from then on as ever.

    The first collection comes after so many objects, and sets them aside for good.
    """
    usual = gc.get_threshold()

    def loaded(_phase: str, _info: dict[str, int]) -> None:
        gc.callbacks.remove(loaded)
        gc.freeze()
        gc.set_threshold(*usual)

    gc.callbacks.append(loaded)
    gc.set_threshold(_LOADED_OBJECTS, *usual[1:])


class FastExit:
    """How the process leaves: as Python does, less taking its objects apart, which takes 1.4 s.

    Made first, it comes last: by then threads have been waited for and the exit handlers that were
    registered meanwhile have run. A stream that cannot be flushed is left to the interpreter, which
    says so and exits with 120.
    """

    def __init__(self) -> None:
        self.exit_code = 1
        atexit.register(self._leave)

    def _leave(self) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.exit_code)
