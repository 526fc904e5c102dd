"""How long OpenMP's threads spin while they wait for work; imports no torch.

GNU OpenMP, which torch's CPU build uses, lets waiting threads spin for milliseconds before they
sleep. That helps a process that has the cores to itself, a little, and takes the cores from every
other process: two trainings at once then reach half of what one reaches alone. With a short spin
they reach all of it (benchmarks/side_by_side.py). The number of threads stays the same, and so do
the bits of every result.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SPIN_COUNT = "GOMP_SPINCOUNT"
_WAIT_POLICY = "OMP_WAIT_POLICY"
_SHORT_SPIN = "1500"  # loop iterations, about a microsecond


def limit_spinning() -> None:
    """Set a short spin for this process and its children, unless the user has chosen.

    It takes effect if torch is not loaded yet: GNU OpenMP reads its settings when it is loaded.
    """
    if _WAIT_POLICY not in os.environ:
        os.environ.setdefault(_SPIN_COUNT, _SHORT_SPIN)


@contextmanager
def limit_spinning_temporarily() -> Iterator[None]:
    """`limit_spinning` for a torch that is loaded in this block; the environment is restored."""
    before = os.environ.get(_SPIN_COUNT)
    if "torch" not in sys.modules:
        limit_spinning()
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SPIN_COUNT, None)
