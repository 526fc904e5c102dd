"""Release of the memory that a failed step holds, so that a smaller step can be tried."""

import gc
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from trialrun.engine.compute.allocator import release_freed_memory
from trialrun.engine.compute.torch_errors import is_out_of_memory

Result = TypeVar("Result")


def clear_failed_frames(error: BaseException) -> None:
    """Delete the local variables of the frames that `error` and its causes have ended.

    An exception refers to these frames, and they to the step's tensors. The traceback remains
    printable.
    """
    current: BaseException | None = error
    while current is not None:
        traceback.clear_frames(current.__traceback__)
        current = current.__cause__ or current.__context__


def release_memory() -> None:
    """Return unused memory to the operating system and to the driver of the GPU."""
    gc.collect()  # frames and tensors may refer to each other
    release_freed_memory()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def find_fitting_result(compute: Callable[[int], Result], batch_size: int) -> tuple[Result, int]:
    """Call `compute` with a batch size, halved while memory runs out; return the size that fits.

    The result must not depend on the size.
    """
    while True:
        try:
            return compute(batch_size), batch_size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
            clear_failed_frames(error)
        # After the except block, which refers to the error.
        release_memory()
        batch_size //= 2
