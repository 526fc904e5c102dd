"""Device, precision and memory layout of a run, chosen by fixed rules.

The rules depend on hardware, network and image size alone, so the same machine always makes the
same choice.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.processor import has_fast_bf16
from trialrun.errors import InvalidParameterError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """A resolved device, precision (`fp32`, `bf16` or `fp16`) and layout (`NCHW` or `NHWC`)."""

    device: torch.device
    precision: str
    layout: str = "NHWC"
    is_auto: bool = False  # whether `for_network` may change the precision

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes: autocast, or nothing for fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def for_network(self, network: nn.Module) -> "ComputeConfig":
        """Return the precision and layout in which this network trains fastest on this device.

        fp32 instead of bf16 for depthwise networks on a CPU, unless the user set the precision.
        NHWC on CPUs and CUDA.
        """
        layout = "NCHW" if self.device.type == "mps" else "NHWC"
        use_fp32 = self.is_auto and self.device.type == "cpu" and _is_depthwise(network)
        return replace(self, layout=layout, precision="fp32" if use_fp32 else self.precision)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as a torch memory format."""
        return _FORMATS[self.layout]

    def place(self, network: nn.Module) -> None:
        """Move a network to this device and memory format, unless it is there already."""
        tensors = chain(network.parameters(), network.buffers())
        if not all(tensor.device == self.device and self._is_ordered(tensor) for tensor in tensors):
            network.to(self.device).to(memory_format=self.memory_format)

    def _is_ordered(self, tensor: Tensor) -> bool:
        return tensor.ndim != 4 or tensor.is_contiguous(memory_format=self.memory_format)

    def to_memory_format(self, inputs: Tensor) -> Tensor:
        """Return images in this memory format; other inputs, such as features, unchanged."""
        if inputs.ndim != 4:
            return inputs
        return inputs.contiguous(memory_format=self.memory_format)

    @property
    def accumulator_dtype(self) -> torch.dtype:
        """The dtype for an epoch's sums: float64, or float32 on MPS, which has no float64."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def pins_memory(self) -> bool:
        """Whether batches are copied to the device from page-locked memory."""
        return self.device.type == "cuda"


def resolve_compute(
    device: str, precision: str, *, tf32: bool = True, local_rank: int = 0
) -> ComputeConfig:
    """Return a run's device and precision; each local rank gets its own GPU.

    `precision=auto` is bf16 if the hardware computes it faster than fp32, else fp32;
    `ComputeConfig.for_network` may change it for the network. `tf32` is set for the whole process,
    because torch has no narrower setting.

    Raises:
        InvalidParameterError: The device is not available, or cannot compute in `precision`.
    """
    resolved = find_device(device, local_rank=local_rank)
    # Only CUDA's flags: torch.set_float32_matmul_precision would let CPUs round as well.
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    is_auto = precision == "auto"
    if is_auto:
        precision = "bf16" if _has_bf16(resolved) else "fp32"
    if precision == "fp16" and resolved.type == "cpu":
        raise InvalidParameterError("precision=fp16 needs a GPU", "Use auto, fp32 or bf16.")
    return ComputeConfig(resolved, precision, is_auto=is_auto)


def supports_precision(device: torch.device, precision: str) -> bool:
    """Whether `device` computes in `precision` without emulating it."""
    if precision == "bf16":
        return _has_bf16(device)
    return precision == "fp32" or device.type != "cpu"


def _is_depthwise(network: nn.Module) -> bool:
    """Whether a network has more depthwise convolutions than linear layers.

    Such networks (MobileNet, MNASNet, EfficientNet, ShuffleNet) are limited by memory rather than
    by arithmetic: on AMD with AVX512-BF16 they train 0.6 to 1.03 times as fast in bf16 as in fp32,
    other networks up to 1.9 times. ConvNeXt has two linear layers per depthwise convolution: 1.4
    times (benchmarks/layout.py).
    """
    modules = list(network.modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    num_depthwise = sum(conv.groups == conv.in_channels > 1 for conv in convolutions)
    return num_depthwise > sum(isinstance(module, nn.Linear) for module in modules)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and has_fast_bf16()
