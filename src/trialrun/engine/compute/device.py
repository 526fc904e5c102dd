"""Torch devices by name, for training, scoring and serving, and copies to a device."""

import torch
from torch import Tensor

from trialrun.errors import InvalidParameterError


def find_device(name: str, *, setting: str = "device", local_rank: int = 0) -> torch.device:
    """Return the device called `name`; `auto` is CUDA if available, else MPS, else the CPU.

    `cuda` and `auto` give each local rank its own GPU, a single process the first one. `setting`
    is the name of the setting that error messages mention.

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
            f"{setting}={name} is not a device", "Use auto, cpu, cuda, cuda:N or mps."
        ) from None
    is_available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not is_available:
        raise InvalidParameterError(
            f"{setting}={name} is not on this machine", f"Use {setting}=auto."
        )
    return device


def _find_rank_gpu(local_rank: int) -> torch.device:
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise InvalidParameterError(
            f"local rank {local_rank} has no GPU: this machine has {num_gpus}",
            f"Start torchrun with --nproc-per-node={num_gpus}.",
        )
    return torch.device("cuda", local_rank)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device` without waiting for the copy.

    CUDA copies asynchronously from page-locked memory only; a copy from ordinary memory first waits
    for all work that the GPU has queued.
    """
    if device.type == "cuda":
        values = values.pin_memory()  # returns pinned tensors unchanged
    return values.to(device, non_blocking=True)
