"""Tests of convolutions that compute only the part of a kernel that meets pixels."""

import copy
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trialrun.engine.compute.kernels import Window, crop_kernels, find_window, list_croppable


def run(layer: nn.Conv2d, images: Tensor, *, is_cropped: bool) -> list[Tensor]:
    """Return the outputs and the gradients of images, weights and biases."""
    layer.zero_grad()
    inputs = images.clone().requires_grad_()
    with crop_kernels([layer]) if is_cropped else nullcontext():
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
    cropped, whole = (run(layer, images, is_cropped=is_cropped) for is_cropped in (True, False))
    tolerance = 1e-9 if dtype == torch.double else 1e-3
    torch.testing.assert_close(cropped, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "kernel_size", "padding", "stride", "window"),
    [
        (1, 3, 1, 1, Window(1, 2, 0)),  # the last layers of a ResNet at 32 pixels
        (2, 3, 1, 2, Window(1, 3, 0)),  # the convolution that leads to them
        (2, 3, 1, 1, Window(0, 3, 1)),
        (7, 3, 1, 1, Window(0, 3, 1)),
        (1, 7, 3, 2, Window(3, 4, 0)),
    ],
)
def test_window_is_the_part_of_the_kernel_that_meets_pixels(
    size: int, kernel_size: int, padding: int, stride: int, window: Window
) -> None:
    """The whole kernel, where each of its weights meets a pixel."""
    assert find_window(size, kernel_size, padding, stride, 1) == window


def test_gradient_has_the_layout_of_the_weights() -> None:
    """With channels last, torch would otherwise copy it."""
    layer = nn.Conv2d(4, 4, 3, padding=1).to(memory_format=torch.channels_last)
    run(layer, torch.randn(2, 4, 1, 1), is_cropped=True)
    assert layer.weight.grad is not None
    assert layer.weight.grad.stride() == layer.weight.stride()


def test_layers_are_as_before_afterwards() -> None:
    """Also after an error: copies of the network and saved ones know nothing of it."""
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    before = {**vars(network[0])}
    with pytest.raises(RuntimeError), crop_kernels(list_croppable(network)):
        network(torch.zeros(1, 5, 1, 1))
    assert vars(network[0]) == before
    copy.deepcopy(network)


def test_only_plain_padded_convolutions_are_croppable() -> None:
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
    assert list_croppable(nn.Sequential(*layers)) == layers[:1]
