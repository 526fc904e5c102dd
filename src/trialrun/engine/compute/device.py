"""The device that a setting names: for training, for scoring and for the pyfunc alike."""

import torch
from torch import Tensor

from trialrun.errors import InvalidParameterError


def find_device(name: str, *, setting: str = "device", local_rank: int = 0) -> torch.device:
    """The device called `name`; `auto` is CUDA, else MPS, else the CPU.

    `cuda` is the machine's first GPU, and for ranks each one's own. `setting` is what the user set
    `name` with.

    Raises:
        InvalidParameterError: `name` is not a device, or this machine does not have it.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return _find_rank_gpu(local_rank)
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidParameterError(
            f"{setting}={name} is no device", "Take auto, cpu, cuda, cuda:N or mps."
        ) from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not there:
        raise InvalidParameterError(
            f"{setting}={name} is not on this machine", f"Take {setting}=auto."
        )
    return device


def _find_rank_gpu(local_rank: int) -> torch.device:
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise InvalidParameterError(
            f"rank {local_rank} of this machine finds no GPU of its own: there are {num_gpus}",
            f"Start torchrun with --nproc-per-node={num_gpus}.",
        )
    return torch.device("cuda", local_rank)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, on the CPU, as they will be on the device once it gets to them.

    A copy to a GPU out of ordinary memory first waits for all the GPU has been asked to do; out of
    page-locked memory it takes its turn.
    """
    if device.type == "cuda":
        values = values.pin_memory()  # nothing to do where it is pinned already
    return values.to(device, non_blocking=True)
