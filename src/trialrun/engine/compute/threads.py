"""The number of torch's threads for small products, which are slower on several threads.

A step of a last layer takes under a millisecond. Waiting for a second thread takes longer than what
it saves, most of all where other processes use the cores.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# 16 images, 1,280 features: with 400 classes (8e6) a step on one of two shared cores takes 0.6 of
# the time on both, with 2 classes 0.45, with 1,000 classes 0.8 (2026-11-28, Intel Xeon). Cores that
# are idle gain from the second thread only above this.
_MAX_SMALL_PRODUCTS = 1 << 23


@contextmanager
def limit_threads(num_products: int) -> Iterator[None]:
    """Use one thread in the block if its largest matrix product has few scalar products.

    The number of threads decides the last bits of sums; this choice depends on the sizes alone.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or num_products > _MAX_SMALL_PRODUCTS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
