"""Convolutions of oneDNN with their activation, and with weights in oneDNN's own layout.

torch computes convolutions on a CPU with oneDNN, but converts the weights in every call and writes
the activation in a pass of its own. These are the operators that torch.compile uses instead. They
are not documented, so callers compare the results with the original network's and expect errors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trialrun.models.fold import copy_modules
from trialrun.models.zoo.networks import find_head_prefix

_Activation = tuple[str, tuple[float, ...]]  # oneDNN's name and arguments


class FusedConvolution(nn.Module):
    """A convolution and its activation in one operator; for images of about `input_shape`."""

    def __init__(
        self, convolution: nn.Conv2d, activation: _Activation, input_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._geometry = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._name, arguments = activation
        self._arguments = list(arguments)
        # Not buffers: the layout is opaque to torch's conversions.
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach(), *self._geometry, list(input_shape)
        )
        bias = convolution.bias
        self._bias = None if bias is None else bias.detach()

    def forward(self, images: Tensor) -> Tensor:
        """Return the activated results."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images,
            self._weight,
            self._bias,
            *self._geometry,
            self._name,
            self._arguments,
            "",
        )
        return result


def fuse_convolutions(
    network: nn.Module, followers: Mapping[str, str], images: Tensor
) -> nn.Module:
    """Return a network with the convolutions of oneDNN; `network` remains as it is.

    `images` are normalised images like the ones to score, in the dtype of the network.

    Raises:
        RuntimeError: oneDNN cannot compute a convolution.
        AttributeError: This torch does not have the operators.
    """
    shapes = _record_input_shapes(network, images)
    fused = copy_modules(network)
    shapes.pop(find_head_prefix(network).removesuffix("."), None)  # others look for the last layer
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name in shapes and _is_fusible(module):
            activation, replaced = _find_activation(network, followers, name)
            fused.set_submodule(name, FusedConvolution(module, activation, shapes[name]))
            if replaced:
                fused.set_submodule(replaced, nn.Identity())
    return fused


def _is_fusible(convolution: nn.Conv2d) -> bool:
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def _record_input_shapes(network: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of the images that each convolution gets."""
    shapes: dict[str, tuple[int, ...]] = {}
    convolutions: dict[nn.Module, str] = {
        module: name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    }

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[convolutions[module]] = tuple(inputs[0].shape)

    handles = [module.register_forward_pre_hook(record) for module in convolutions]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _find_activation(
    network: nn.Module, followers: Mapping[str, str], name: str
) -> tuple[_Activation, str]:
    """Return the activation after the convolution `name`, and its module's name or "" for none."""
    follower = followers.get(name, "")
    while follower and isinstance(network.get_submodule(follower), nn.Identity):
        follower = followers.get(follower, "")
    activation = _describe_activation(network.get_submodule(follower)) if follower else None
    return (activation, follower) if activation else (("none", ()), "")


def _describe_activation(module: nn.Module) -> _Activation | None:
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", (float(module.min_val), float(module.max_val))
    names = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "swish"}
    name = names.get(type(module))
    return (name, ()) if name else None
