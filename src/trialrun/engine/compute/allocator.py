"""Settings of glibc's allocator: the process keeps freed memory for the next training step.

By default, glibc takes every block over 32 MB from the kernel and returns it when it is freed.
Training allocates the same large blocks in every step, so every step pays for the page faults.
Measured with ResNet-18 at 224 pixels, batch 16, fp32, on two cores: 17 images/s with the defaults,
22 with these settings. All threads share one arena: with an arena per thread, memory grew by 26 MB
from the second epoch to the tenth, with one by 0.2 MB (benchmarks/upkeep.py).
"""

import ctypes
import ctypes.util
import platform
from functools import cache

# Names and numbers of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEEP_BYTES = 1 << 30  # smaller blocks come from the heap, which keeps this much free memory
_KEEP_BYTES_OF_OLD_GLIBC = 1 << 25  # the maximum of glibc versions that reject `_KEEP_BYTES`


@cache
def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for this process; False with another C library or if glibc refuses.

    Memory that is already free is first returned to the kernel: decoding images leaves gaps that
    are too small for training's blocks. Later calls change nothing: the next training of a process
    uses the blocks of the one before.
    """
    libc = _load_glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    # The mmap threshold comes first: setting any option turns off glibc's dynamic threshold, which
    # would leave it at 128 kB.
    raised = libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES) or libc.mallopt(
        _M_MMAP_THRESHOLD, _KEEP_BYTES_OF_OLD_GLIBC
    )
    return bool(
        raised and libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES) and libc.mallopt(_M_ARENA_MAX, 1)
    )


def release_freed_memory() -> None:
    """Return all free memory to the kernel, for use before blocks of another size are needed."""
    if libc := _load_glibc():
        libc.malloc_trim(0)


def count_free_heap_bytes() -> int:
    """Return the bytes that glibc holds free for this process; 0 if it does not say."""
    read = getattr(_load_glibc(), "mallinfo2", None)  # glibc 2.33 or later
    if read is None:
        return 0
    read.restype = _HeapFigures
    return int(read().fordblks)


class _HeapFigures(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        )
    )


@cache
def _load_glibc() -> ctypes.CDLL | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(ctypes.util.find_library("c"))
