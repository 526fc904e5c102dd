"""The spin count of OpenMP's threads, which decides how long they spin while they wait for work.

This module does not import torch. GNU OpenMP, which torch's CPU build uses, lets waiting threads
spin for milliseconds before they sleep. Spinning helps a process that has all cores to itself a
little, but takes the cores from every other process: two trainings at once reach half the speed of
one alone. With a short spin they reach all of it (benchmarks/side_by_side.py). The number of
threads and the bits of every result stay the same.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SPIN_COUNT = "GOMP_SPINCOUNT"
_WAIT_POLICY = "OMP_WAIT_POLICY"
_SHORT_SPIN = "1500"  # loop iterations, about a microsecond


def limit_spinning() -> None:
    """Set a short spin for this process and its children, unless the user has set one.

    Call it before torch is loaded: GNU OpenMP reads its settings when it is loaded.
    """
    if _WAIT_POLICY not in os.environ:
        os.environ.setdefault(_SPIN_COUNT, _SHORT_SPIN)


@contextmanager
def limit_spinning_temporarily() -> Iterator[None]:
    """Call `limit_spinning` if torch is not loaded yet; restore the environment afterwards."""
    before = os.environ.get(_SPIN_COUNT)
    if "torch" not in sys.modules:
        limit_spinning()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SPIN_COUNT, None)
