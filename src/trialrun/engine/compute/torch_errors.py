"""What torch says of memory and of too small a batch, in our words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trialrun.errors import InvalidParameterError, OutOfMemoryError, TrialrunError

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "status_alloc_failed")


class NonFiniteLossError(TrialrunError):
    """The loss is no longer a number: no further step was applied, and nothing is kept of it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or "Lower learning_rate, or set warmup_steps.")


@contextmanager
def translate_torch_errors(batch_size: int) -> Iterator[None]:
    """Translate what batches of `batch_size` images may raise.

    Raises:
        OutOfMemoryError: The batch does not fit; the hint names a size to try.
        InvalidParameterError: The network cannot learn from a batch this small.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"a batch of {batch_size} images does not fit in memory",
            f"Set batch_size={max(batch_size // 2, 1)}, or a smaller image_size.",
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InvalidParameterError(
            "batch_size=1 leaves batch norm nothing to average at this image size",
            "Set batch_size=2 or more.",
        ) from error


@contextmanager
def translate_scoring_errors(device: torch.device) -> Iterator[None]:
    """Translate what a network may raise whose scoring does not fit in the memory of `device`.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        hint = "End other programs, or take a machine with more memory."
        raise OutOfMemoryError(
            f"scoring with this model does not fit in the memory of {device}",
            hint if device.type == "cpu" else "Set device=cpu.",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()  # a RuntimeError is all that CPUs and MPS get
    return any(sign in said for sign in _OUT_OF_MEMORY)
