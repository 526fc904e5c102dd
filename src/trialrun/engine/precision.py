"""Arithmetic and memory layout of a device: by rule, so that a machine always decides alike."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from trialrun.errors import InvalidParameterError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A resolved device and precision (`fp32`, `bf16` or `fp16`)."""

    device: torch.device
    precision: str

    def autocast(self) -> AbstractContextManager[object]:
        """What a forward pass runs in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last on CPU and CUDA, where convolutions are faster for it."""
        plain = self.device.type == "mps"
        return torch.contiguous_format if plain else torch.channels_last


def resolve(device: str, precision: str) -> Arithmetic:
    """The arithmetic of a run.

    Raises:
        InvalidParameterError: The device is not there, or cannot compute in `precision`.
    """
    resolved = _device(device)
    if precision == "auto":
        precision = "bf16" if _has_bf16(resolved) else "fp32"
    if precision == "fp16" and resolved.type == "cpu":
        raise InvalidParameterError("precision=fp16 needs a GPU", "Take auto, fp32 or bf16.")
    return Arithmetic(resolved, precision)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidParameterError(
            f"device={name} is no device", "Take auto, cpu, cuda, cuda:N or mps."
        ) from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not there:
        raise InvalidParameterError(f"device={name} is not on this machine", "Take device=auto.")
    return device


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_flags() & {"avx512_bf16", "amx_bf16"} != set()


def _cpu_flags() -> set[str]:
    """What Linux says the processor has; nothing elsewhere, where fp32 is the safe choice."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.partition(":")[2].split())
