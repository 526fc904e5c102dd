"""Tests of convolutions that are computed in other ways on small maps."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trialrun.engine.compute.kernels import Window, adapt_to_small_maps, find_window, list_adaptable


def run(layer: nn.Conv2d, images: Tensor, *, is_adapted: bool) -> list[Tensor]:
    """Return the outputs and the gradients of images, weights and biases."""
    layer.zero_grad()
    inputs = images.clone().requires_grad_()
    with adapt_to_small_maps([layer]) if is_adapted else nullcontext():
        outputs = layer(inputs)
    (outputs * torch.arange(outputs.numel()).view_as(outputs)).sum().backward()
    gradients = [inputs.grad, layer.weight.grad, layer.bias.grad if layer.bias is not None else 0]
    return [outputs, *(torch.as_tensor(gradient).clone() for gradient in gradients)]


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    has_bias=st.booleans(),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    dtype=st.sampled_from([torch.double, torch.float]),
)
def test_outputs_and_gradients_equal_those_of_the_whole_kernel(
    size: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
    stride: int,
    dilation: int,
    groups: int,
    has_bias: bool,
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    """Whatever map, kernel, padding, stride, dilation, groups, layout and precision."""
    reaches = [dilation * (taps - 1) + 1 for taps in kernel]
    if any(side + 2 * pad < reach for side, pad, reach in zip(size, padding, reaches, strict=True)):
        return  # torch refuses it
    torch.manual_seed(1)
    layer = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups, has_bias)
    layer.to(dtype=dtype).to(memory_format=layout)
    images = torch.randn(2, 2, *size, dtype=dtype).contiguous(memory_format=layout)
    adapted, whole = (run(layer, images, is_adapted=is_adapted) for is_adapted in (True, False))
    tolerance = 1e-9 if dtype == torch.double else 1e-3
    torch.testing.assert_close(adapted, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "kernel_size", "padding", "stride", "window"),
    [
        (1, 3, 1, 1, Window(1, 2, 0, 1)),  # the last layers of a ResNet at 32 pixels
        (2, 3, 1, 2, Window(1, 3, 0, 1)),  # the convolution that leads to them
        (2, 3, 1, 1, Window(0, 3, 1, 2)),
        (7, 3, 1, 1, Window(0, 3, 1, 7)),
        (1, 7, 3, 2, Window(3, 4, 0, 1)),
    ],
)
def test_window_is_the_part_of_the_kernel_that_meets_pixels(
    size: int, kernel_size: int, padding: int, stride: int, window: Window
) -> None:
    """The whole kernel, where each of its weights meets a pixel."""
    assert find_window(size, kernel_size, padding, stride, 1) == window


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_large_kernel_on_two_by_two_pixels_is_a_matrix_product(
    layout: torch.memory_format, has_bias: bool
) -> None:
    """With the outputs and gradients of the convolution."""
    torch.manual_seed(1)
    layer = nn.Conv2d(256, 320, 3, padding=1, bias=has_bias).to(memory_format=layout)
    images = torch.randn(3, 256, 2, 2).contiguous(memory_format=layout)
    with count_convolutions() as calls:
        adapted = run(layer, images, is_adapted=True)
    assert not calls
    torch.testing.assert_close(adapted, run(layer, images, is_adapted=False), rtol=1e-3, atol=1.0)


def test_products_of_two_by_two_pixels_are_as_exact_as_the_convolution_in_bf16() -> None:
    """Outputs and gradients are as far from those of fp32 as torch's own are."""
    torch.manual_seed(1)
    layer = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.randn(16, 256, 2, 2).contiguous(memory_format=torch.channels_last)
    exact = run(layer, images, is_adapted=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        both = [run(layer, images, is_adapted=is_adapted) for is_adapted in (True, False)]
    for adapted, usual, expected in zip(*both, exact, strict=True):
        errors = [(found.float() - expected).abs().mean() for found in (adapted, usual)]
        assert errors[0] <= 1.2 * errors[1]
    assert layer.weight.dtype == torch.float32


@contextmanager
def count_convolutions() -> Iterator[list[str]]:
    """Collect the convolutions that torch computes."""
    calls: list[str] = []

    class Counter(TorchDispatchMode):
        """Collects the calls of torch's convolutions."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if "convolution" in str(func):
                calls.append(str(func))
            return func(*args, **(kwargs or {}))

    with Counter():  # type: ignore[no-untyped-call] # torch's
        yield calls


@pytest.mark.parametrize("size", [1, 2])
def test_gradient_has_the_layout_of_the_weights(size: int) -> None:
    """With channels last, torch would otherwise copy it."""
    layer = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    run(layer, torch.randn(2, 256, size, size), is_adapted=True)
    assert layer.weight.grad is not None
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_layers_are_as_before_afterwards() -> None:
    """Also after an error: copies of the network and saved ones know nothing of it."""
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    before = {**vars(network[0])}
    with pytest.raises(RuntimeError), adapt_to_small_maps(list_adaptable(network)):
        network(torch.zeros(1, 5, 1, 1))
    assert vars(network[0]) == before
    copy.deepcopy(network)


def test_only_plain_padded_convolutions_are_adaptable() -> None:
    """Not those that have no padding, or another one than zeros, and no subclasses."""

    class Special(nn.Conv2d):
        """A convolution that may compute its weights."""

    layers = [
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        Special(1, 1, 3, padding=1),
    ]
    assert list_adaptable(nn.Sequential(*layers)) == layers[:2]
