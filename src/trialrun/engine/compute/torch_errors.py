"""Translation of torch's errors about memory and too small batches into our own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from trialrun.engine.memory.available import read_available_memory
from trialrun.errors import InvalidParameterError, OutOfMemoryError, TrialrunError

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "status_alloc_failed")
# oneDNN, which computes convolutions on CPUs, has one message for each failure, such as a lack of
# memory for scratch space. It counts as that if less than this is available.
_ONEDNN_FAILURES = ("could not create a primitive", "could not execute a primitive")
_MAX_SCRATCH_BYTES = 2_000_000_000


class NonFiniteLossError(TrialrunError):
    """The training loss became NaN or infinite; the step was not applied, training stops.

    `positions`, (N,), are the images of the step in the training set; None if the step is not
    known.
    """

    def __init__(
        self, message: str, hint: str = "", *, positions: NDArray[np.int64] | None = None
    ) -> None:
        super().__init__(message, hint or "Lower learning_rate, or set warmup_steps.")
        self.positions = positions


@contextmanager
def translate_torch_errors(batch_size: int) -> Iterator[None]:
    """Translate the errors of training with batches of `batch_size` images.

    Raises:
        OutOfMemoryError: The batch does not fit.
        InvalidParameterError: The network cannot train on a batch this small.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"a batch of {batch_size} images does not fit in memory",
            "Set a smaller batch_size, or more accumulate_steps.",
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InvalidParameterError(
            "batch_size=1 gives batch norm only one value per channel at this image size",
            "Set batch_size=2 or more.",
        ) from error


@contextmanager
def translate_network_errors(device: torch.device) -> Iterator[None]:
    """Translate the error of a network that cannot be trained in the memory of `device`.

    Raises:
        OutOfMemoryError: Network, optimizer and average do not fit, whatever the batch size.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"the network does not fit in the memory of {device}",
            "Set another model, or use a machine with more memory.",
        ) from error


@contextmanager
def translate_scoring_errors(device: torch.device) -> Iterator[None]:
    """Translate the error of a network that does not fit in the memory of `device`.

    Raises:
        OutOfMemoryError: It does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        hint = "Close other programs, or use a machine with more memory."
        raise OutOfMemoryError(
            f"scoring with this model does not fit in the memory of {device}",
            hint if device.type == "cpu" else "Set device=cpu.",
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error).lower()  # CPUs and MPS raise a plain RuntimeError
    if message in _ONEDNN_FAILURES:
        available = read_available_memory().least_bytes
        return available is not None and available < _MAX_SCRATCH_BYTES
    return any(sign in message for sign in _OUT_OF_MEMORY)
