"""Builder of torchvision's and timm's classification networks."""

import os.path
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import nn

from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError, summarize_error
from trialrun.models.zoo.names import ARCHITECTURES, SWITCHES, TIMM_PREFIX, supports_switch
from trialrun.models.zoo.timm import build_timm_network

# Auxiliary heads are not built, so that every network has one loss.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")

# By architecture and shapes of parameters: a vision transformer has those of its image size.
_accepted_sizes: set[tuple[object, ...]] = set()


def build_network(
    architecture: str,
    num_classes: int,
    *,
    image_size: int | None,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network with random weights.

    Raises:
        InvalidModelDirectoryError: Unknown architecture, or an argument that it does not take.
        InvalidParameterError: The network cannot be built for this image size.
    """
    if architecture.startswith(TIMM_PREFIX):
        _check_switches(architecture, arguments or {})
        return build_timm_network(architecture, num_classes, image_size)
    if architecture not in ARCHITECTURES:
        raise InvalidModelDirectoryError(
            f"unknown network {architecture}", "`trialrun model list` lists all networks."
        )
    switches = _check_switches(architecture, arguments or {})
    if architecture in _WITH_AUXILIARY_HEADS:
        # torchvision's weights for these networks expect mean and standard deviation 0.5, and
        # `transform_input` converts ImageNet's normalisation. It is set for random weights as well,
        # so that a stored model computes the same.
        switches |= {"aux_logits": False, "init_weights": True, "transform_input": True}
    if image_size is not None and architecture.startswith("vit_"):
        switches["image_size"] = image_size
    if image_size is not None and architecture.startswith("maxvit_"):
        switches["input_size"] = (image_size, image_size)
    try:
        network: nn.Module = torchvision.models.get_model(
            architecture, weights=None, num_classes=num_classes, **switches
        )
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _image_size_error(architecture, image_size, error) from error
    return network


def _check_switches(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in arguments.items():
        if name not in SWITCHES or not isinstance(value, bool):
            raise InvalidModelDirectoryError(
                f"{architecture} takes no argument {name}={value!r}",
                f"Known arguments are {', '.join(SWITCHES)}, true or false.",
            )
        if value and not supports_switch(architecture, name):
            raise InvalidModelDirectoryError(
                f"{architecture} takes no argument {name}",
                f"Only {' and '.join(SWITCHES[name])} networks take it.",
            )
    return {name: True for name, value in arguments.items() if value}


def check_image_size(network: nn.Module, architecture: str, image_size: int) -> None:
    """Check that `network` takes images of `image_size` pixels, by running a blank image.

    A process runs it once per kind of network and size.

    Raises:
        InvalidParameterError: The network does not take this size.
    """
    kind = (architecture, image_size, *(tuple(p.shape) for p in network.parameters()))
    if kind in _accepted_sizes:
        return
    was_training = network.training
    network.eval()
    parameter = next(network.parameters())
    blank = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
    try:
        with torch.inference_mode():
            network(blank)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _image_size_error(architecture, image_size, error) from error
    finally:
        network.train(was_training)
    _accepted_sizes.add(kind)


def _image_size_error(
    architecture: str, image_size: int | None, error: Exception
) -> InvalidParameterError:
    reason = summarize_error(error)
    return InvalidParameterError(
        f"{architecture} does not take images of {image_size} pixels ({reason})",
        "Set image_size; 224 suits every network.",
    )


def find_head_prefix(network: nn.Module) -> str:
    """Return the prefix of the last layer's tensors: its name with a dot.

    Of timm's networks with several last layers it is the beginning that their names share.
    """
    if (get_heads := getattr(network, "get_classifier", None)) is not None:  # timm
        return _find_shared_prefix(network, get_heads())
    *_, last = (name for name, _ in network.named_parameters())
    return last.rpartition(".")[0] + "."


def _find_shared_prefix(network: nn.Module, heads: nn.Module | tuple[nn.Module, ...]) -> str:
    wanted = {id(head) for head in (heads if isinstance(heads, tuple) else (heads,))}
    names = [name for name, module in network.named_modules() if id(module) in wanted]
    return f"{names[0]}." if len(names) == 1 else os.path.commonprefix(names)  # noqa: RUF071 - not paths


def set_dropout(network: nn.Module, architecture: str, probability: float) -> None:
    """Set the probability of all dropout layers.

    Raises:
        InvalidParameterError: The network has no dropout layer.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
    if not layers:
        raise InvalidParameterError(
            f"dropout={probability:g}: {architecture} has no dropout layer", "Set dropout=none."
        )
    for layer in layers:
        layer.p = probability
