"""Convolutions on maps of few pixels: without products with padding, and as matrix products.

A padded kernel that reaches over both borders of a small map has weights that meet padding at every
position: of 3 x 3 weights on a map of one pixel, all but the central one. Their products and their
gradients are 0. What is left of a convolution with one output position, and a 3 x 3 kernel on 2 x 2
pixels, are matrix products, which torch computes faster. Small images have such maps in the last
layers, which hold most weights: at 32 pixels, nearly all of ResNet-18's (benchmarks/kernels.py).
Tensor letters: N images, I and O channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MIN_SPREAD = 1 << 16  # products of channels: below, the kernel's own convolution is faster


class Window(NamedTuple):
    """The part of a kernel along one axis that is used, and the padding that goes with it."""

    first: int
    end: int  # exclusive
    padding: int
    num_outputs: int


def list_adaptable(network: nn.Module) -> list[nn.Conv2d]:
    """Return the network's convolutions that can be computed in other ways on small maps."""
    return [
        layer
        for layer in network.modules()
        # Subclasses may compute their weights; padding may be a word or other than zeros.
        if type(layer) is nn.Conv2d
        and not isinstance(layer.padding, str)
        and layer.padding_mode == "zeros"
    ]


@contextmanager
def adapt_to_small_maps(layers: Iterable[nn.Conv2d]) -> Iterator[None]:
    """Let the layers compute faster on small maps, up to rounding as before.

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
    if layer.groups == 1 and layer.dilation == (1, 1):
        if all(window.num_outputs == 1 and not window.padding for window in windows):
            return _multiply_map(inputs, weight, layer.bias)
        if inputs.shape[2:] == (2, 2) and _can_spread(layer):
            return _multiply_two_by_two(inputs, weight, layer.bias)
    return F.conv2d(inputs, weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups)


def _is_part(window: Window, kernel_size: int) -> bool:
    return window.end - window.first < kernel_size


def _can_spread(layer: nn.Conv2d) -> bool:
    """Whether the layer maps 2 x 2 pixels to as many, so that each output sees all pixels."""
    return (
        (layer.kernel_size, layer.padding, layer.stride) == ((3, 3), (1, 1), (1, 1))
        and layer.in_channels * layer.out_channels >= _MIN_SPREAD
        and torch.is_grad_enabled()  # without a backward pass, there is little to gain
    )


def _multiply_map(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the (N, O, 1, 1) outputs of a kernel that has one position on the map."""
    height, width = weight.shape[2:]
    pixels = inputs[:, :, :height, :width].permute(0, 2, 3, 1).flatten(1)
    return F.linear(pixels, weight.permute(0, 2, 3, 1).flatten(1), bias)[:, :, None, None]


def _multiply_two_by_two(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the (N, O, 2, 2) outputs of a 3 x 3 kernel on (N, I, 2, 2) inputs."""
    kind = inputs.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    matrix = _Spread.apply(weight, dtype)
    pixels = inputs.permute(0, 2, 3, 1).flatten(1)
    outputs = F.linear(pixels, matrix, None if bias is None else bias.repeat(4))
    return outputs.view(len(inputs), 2, 2, len(weight)).permute(0, 3, 1, 2)


@cache
def find_window(size: int, kernel_size: int, padding: int, stride: int, dilation: int) -> Window:
    """Return the smallest window of the kernel with the same products on a map of `size` pixels.

    The whole kernel, if no smaller one has the same number of outputs with equal paddings.
    """
    num_outputs = _count_outputs(size, kernel_size, padding, stride, dilation)
    whole = Window(0, kernel_size, padding, num_outputs)
    used = [
        tap
        for tap in range(kernel_size)
        if any(
            0 <= output * stride - padding + tap * dilation < size for output in range(num_outputs)
        )
    ]
    if not used:
        return whole
    window = Window(used[0], used[-1] + 1, padding - used[0] * dilation, num_outputs)
    num_taps = window.end - window.first
    if window.padding < 0:
        return whole
    num_found = _count_outputs(size, num_taps, window.padding, stride, dilation)
    return window if num_found == num_outputs else whole


def _count_outputs(size: int, num_taps: int, padding: int, stride: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (num_taps - 1) - 1) // stride + 1


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


class _Spread(torch.autograd.Function):
    """The (4 O, 4 I) matrix by which a 3 x 3 kernel maps 2 x 2 pixels to 2 x 2 pixels."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.shape, ctx.strides, ctx.dtype = weight.shape, weight.stride(), weight.dtype
        num_outputs, num_inputs = weight.shape[:2]
        matrix = weight.new_empty((2, 2, num_outputs, 2, 2, num_inputs), dtype=dtype)
        for row, column in product(range(2), repeat=2):
            taps = weight[:, :, 1 - row : 3 - row, 1 - column : 3 - column]
            matrix[row, column] = taps.permute(0, 2, 3, 1)
        return matrix.view(4 * num_outputs, 4 * num_inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (whole,) = gradients
        num_outputs, num_inputs = ctx.shape[:2]
        blocks = whole.reshape(2, 2, num_outputs, 2, 2, num_inputs)
        gradient = whole.new_empty_strided(ctx.shape, ctx.strides, dtype=ctx.dtype).zero_()
        for row, column in product(range(2), repeat=2):
            taps = gradient[:, :, 1 - row : 3 - row, 1 - column : 3 - column]
            taps += blocks[row, column].permute(0, 3, 1, 2)
        return gradient, None
