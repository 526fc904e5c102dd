"""Convolutions that compute only the part of a kernel that meets pixels.

A padded kernel that reaches over both borders of a small map has weights that meet padding at every
position: of 3 x 3 weights on a map of one pixel, all but the central one. Their products and their
gradients are 0. Small images have such maps in the last layers, which hold most weights: at 32
pixels, three quarters of ResNet-18's, whose step then takes 0.74 to 0.83 of the time (two cores,
benchmarks/kernels.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Window(NamedTuple):
    """The part of a kernel along one axis that is used, and the padding that goes with it."""

    first: int
    end: int  # exclusive
    padding: int


def list_croppable(network: nn.Module) -> list[nn.Conv2d]:
    """Return the network's convolutions that small maps can crop."""
    return [
        layer
        for layer in network.modules()
        # Subclasses may compute their weights; padding may be a word or other than zeros.
        if type(layer) is nn.Conv2d
        and not isinstance(layer.padding, str)
        and any(layer.padding)
        and layer.padding_mode == "zeros"
    ]


@contextmanager
def crop_kernels(layers: Iterable[nn.Conv2d]) -> Iterator[None]:
    """Let the layers compute only with the weights that meet pixels, up to rounding as before.

    The modules keep their class and their weights, so that they can be copied, saved and exported.
    """
    changed = [layer for layer in layers if "forward" not in vars(layer)]  # or a user's own stays
    for layer in changed:
        vars(layer)["forward"] = partial(_convolve, layer)  # faster than Module's `__setattr__`
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["forward"]


def _convolve(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    weight, padding = layer.weight, layer.padding
    axes = zip(
        inputs.shape[2:], layer.kernel_size, padding, layer.stride, layer.dilation, strict=True
    )
    windows = [find_window(*axis) for axis in axes]
    if any(_is_part(window, size) for window, size in zip(windows, weight.shape[2:], strict=True)):
        weight = _Crop.apply(weight, [slice(window.first, window.end) for window in windows])
        padding = tuple(window.padding for window in windows)
    return F.conv2d(inputs, weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups)


def _is_part(window: Window, kernel_size: int) -> bool:
    return window.end - window.first < kernel_size


@cache
def find_window(size: int, kernel_size: int, padding: int, stride: int, dilation: int) -> Window:
    """Return the smallest window of the kernel with the same products on a map of `size` pixels.

    The whole kernel, if no smaller one has the same number of outputs with equal paddings.
    """
    whole = Window(0, kernel_size, padding)
    num_outputs = _count_outputs(size, whole, stride, dilation)
    used = [
        tap
        for tap in range(kernel_size)
        if any(
            0 <= output * stride - padding + tap * dilation < size for output in range(num_outputs)
        )
    ]
    if not used:
        return whole
    window = Window(used[0], used[-1] + 1, padding - used[0] * dilation)
    is_equal = window.padding >= 0 and _count_outputs(size, window, stride, dilation) == num_outputs
    return window if is_equal else whole


def _count_outputs(size: int, window: Window, stride: int, dilation: int) -> int:
    reach = dilation * (window.end - window.first - 1) + 1
    return (size + 2 * window.padding - reach) // stride + 1


class _Crop(torch.autograd.Function):
    """A part of weights; its gradient has the layout of the weights, so that nothing copies it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, window: Sequence[slice]) -> Tensor:
        ctx.window, ctx.shape, ctx.strides = window, weight.shape, weight.stride()
        return weight[:, :, *window]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (part,) = gradients
        whole = part.new_empty_strided(ctx.shape, ctx.strides).zero_()
        whole[:, :, *ctx.window] = part
        return whole, None
