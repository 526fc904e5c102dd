"""Arithmetic and memory layout of a device: by rule, so that a machine always decides alike."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trialrun.engine.compute.device import find_device
from trialrun.errors import InvalidParameterError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# Networks learn small images faster in NCHW if their convolutions are dense: (images below so many
# pixels a side, least share of the weights in dense convolutions). On two cores ResNet-18 (1.0) is
# 1.2 times as fast at 64 pixels in fp32 and bf16, and slower from 128 on; ResNet-50 (0.5) is 1.1
# times as fast at 32, and equal at 64. DenseNet-121 (0.3), MobileNetV3 and EfficientNet are faster
# in NHWC at any size (benchmarks/layout.py).
_NCHW_RULES = ((128, 0.9), (64, 0.4))


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """A resolved device, precision (`fp32`, `bf16` or `fp16`) and layout (`NCHW` or `NHWC`)."""

    device: torch.device
    precision: str
    layout: str = "NHWC"
    is_auto: bool = False  # whether `suited_to` may choose another precision for the network

    def autocast(self) -> AbstractContextManager[object]:
        """What a forward pass runs in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def with_best_memory_format(
        self, network: nn.Module, image_size: int | None
    ) -> "ComputeConfig":
        """The precision and layout in which this network learns fastest on this device.

        fp32 instead of bf16 for depthwise networks on a CPU, unless the precision was set by the
        user. NHWC on CPUs and CUDA, except for small images and dense convolutions on a CPU.
        """
        on_cpu = self.device.type == "cpu"
        plain = on_cpu and image_size is not None and _prefers_nchw(network, image_size)
        layout = "NCHW" if plain or self.device.type == "mps" else "NHWC"
        slows = self.is_auto and on_cpu and _is_depthwise(network)
        return replace(self, layout=layout, precision="fp32" if slows else self.precision)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch calls it."""
        return _FORMATS[self.layout]

    def to_memory_format(self, inputs: Tensor) -> Tensor:
        """Images in the layout that the device computes fastest in; features as they are."""
        if inputs.ndim != 4:
            return inputs
        return inputs.contiguous(memory_format=self.memory_format)

    @property
    def accumulator_dtype(self) -> torch.dtype:
        """What an epoch's figures are summed in; MPS has nothing wider than float32."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def pins_memory(self) -> bool:
        """Whether batches go to the device from page-locked memory."""
        return self.device.type == "cuda"


def resolve_compute(
    device: str, precision: str, *, tf32: bool = True, local_rank: int = 0
) -> ComputeConfig:
    """The arithmetic of a run; of a machine's ranks each has a GPU of its own.

    `precision=auto` is what the hardware computes faster; `Arithmetic.suited_to` then asks the
    network too.

    `tf32` is set for the whole process, as torch has it.

    Raises:
        InvalidParameterError: The device is not there, or cannot compute in `precision`.
    """
    resolved = find_device(device, local_rank=local_rank)
    # Of CUDA alone: torch.set_float32_matmul_precision would let CPUs round as well.
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    is_auto = precision == "auto"
    if is_auto:
        precision = "bf16" if _has_bf16(resolved) else "fp32"
    if precision == "fp16" and resolved.type == "cpu":
        raise InvalidParameterError("precision=fp16 needs a GPU", "Take auto, fp32 or bf16.")
    return ComputeConfig(resolved, precision, is_auto=is_auto)


def _prefers_nchw(network: nn.Module, image_size: int) -> bool:
    share = _compute_dense_share(network)
    return any(image_size < pixels and share > least for pixels, least in _NCHW_RULES)


def _compute_dense_share(network: nn.Module) -> float:
    """Of the weights of all convolutions, the part in those over space and all channels at once."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    total = sum(each.weight.numel() for each in convolutions)
    dense = sum(
        each.weight.numel()
        for each in convolutions
        if each.groups == 1 and each.weight.shape[-1] > 1
    )
    return dense / total if total else 0.0


def _is_depthwise(network: nn.Module) -> bool:
    """Whether a network has more depthwise convolutions than linear layers.

    Such networks (MobileNet, MNASNet, EfficientNet, ShuffleNet) wait for memory rather than
    multiply: on AMD with AVX512-BF16 they learn 0.6 to 1.03 times as fast in bf16 as in fp32, and
    others up to 1.9 times. ConvNeXt has two linear layers per depthwise convolution: 1.4 times
    (benchmarks/layout.py).
    """
    modules = list(network.modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    num_depthwise = sum(each.groups == each.in_channels > 1 for each in convolutions)
    return num_depthwise > sum(isinstance(module, nn.Linear) for module in modules)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _multiplies_bf16_faster(_read_cpuinfo())


def _multiplies_bf16_faster(cpuinfo: str) -> bool:
    """Whether the processor that Linux describes so has bf16 in hardware that outruns its fp32.

    AMX does, and so does AVX-512's dot product on AMD. On an Intel of the fifth generation, without
    AMX, ResNet-18 learned 0.69 times as fast by that product as in fp32 (docs/log.md).
    """
    described = dict(map(_read_field, cpuinfo.splitlines()))
    flags = set(described.get("flags", "").split())
    on_amd = described.get("vendor_id") == "AuthenticAMD"
    return "amx_bf16" in flags or (on_amd and "avx512_bf16" in flags)


def _read_field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _read_cpuinfo() -> str:
    """What Linux says of its processors; nothing elsewhere, where fp32 is the safe choice."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
