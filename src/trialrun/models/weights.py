"""Weights as bytes and back, with nothing executed and nothing believed.

safetensors and torch's own loader both accept a flipped bit: callers check a sha256 first.
"""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from trialrun.errors import InvalidModelDirectoryError, first_line

_INITIAL_HINT = "Give weights of this very network; a ViT's and a MaxViT's are of one image_size."
_OLD_DENSENET_NAME = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.([12])\.")
_REFUSED_GLOBAL = "Unsupported global"  # torch's words for a pickle that names code
_SOURCE_HINT = "Train or export the model again, or take another copy of it."


def to_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A state dict in safetensors format; equal weights give equal bytes."""
    tensors = {
        name: tensor.detach().to("cpu").contiguous(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return safetensors.torch.save(tensors)


def sha256(content: bytes) -> str:
    """What identifies weights: the hash that `sha256sum model.safetensors` prints."""
    return hashlib.sha256(content).hexdigest()


def from_safetensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """The state dict in safetensors bytes.

    Raises:
        InvalidModelDirectoryError: Not safetensors, or damaged.
    """
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InvalidModelDirectoryError(f"{source} is damaged: {error}", _SOURCE_HINT) from error


def from_torch_save(data: bytes, source: Path) -> dict[str, Tensor]:
    """The state dict that `torch.save` wrote; a pickle that asks for more than tensors is refused.

    Raises:
        InvalidModelDirectoryError: Damaged, not a state dict, or asking to run code.
    """
    try:
        with warnings.catch_warnings():  # torch muses on pickle protocols; the outcome is ours
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's legacy reader raises whatever its bytes lead to
        asks = _REFUSED_GLOBAL in str(error)
        what = "asks to run code while loading, and is refused" if asks else "is damaged"
        if not isinstance(error, pickle.UnpicklingError):  # whose text advises to run the code
            what = f"{what}: {first_line(error)}"
        raise InvalidModelDirectoryError(f"{source} {what}", _SOURCE_HINT) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InvalidModelDirectoryError(f"{source} holds no state dict", _SOURCE_HINT)
    return dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file or one of `torch.save`.

    Raises:
        InvalidModelDirectoryError: The file is not there, damaged, or asks to run code.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModelDirectoryError(
            f"{path} cannot be read: {error.strerror or error}", "Give a file of weights."
        ) from error
    parse = from_safetensors if path.suffix == ".safetensors" else from_torch_save
    return parse(data, path)


def load_exactly(
    network: nn.Module, state: Mapping[str, Tensor], source: Path, hint: str = _SOURCE_HINT
) -> None:
    """Put `state` into `network`, every tensor of the right name, shape, type and finite.

    Raises:
        InvalidModelDirectoryError: With the first tensor that does not fit.
    """
    expected = network.state_dict()
    if problem := _first_misfit(expected, state):
        raise InvalidModelDirectoryError(f"{source}: {problem}", hint)
    # Not by load_state_dict: MNASNet's wants to be told a version, which safetensors cannot hold.
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def load_initial(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: Path
) -> None:
    """Start `network` from `state`, whose last layer may be for another number of classes.

    Batch norm's count of batches may be missing: torch began to keep it after some of torchvision's
    weights were published.

    Raises:
        InvalidModelDirectoryError: Something other than the last layer does not fit.
    """
    initial = _initial(network.state_dict(), state, head_prefix)
    load_exactly(network, initial, source, _INITIAL_HINT)


def check_initial_names(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: str
) -> None:
    """Hold weights to the network's names; their shapes may follow from an image size to come.

    Raises:
        InvalidModelDirectoryError: They are another network's.
    """
    expected = network.state_dict()
    if problem := _strange_names(expected, _initial(expected, state, head_prefix)):
        raise InvalidModelDirectoryError(f"{source}: {problem}", _INITIAL_HINT)


def _initial(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], head_prefix: str
) -> dict[str, Tensor]:
    """`state` under present names, what it may lack or have otherwise taken from `expected`."""
    own = {
        name: tensor
        for name, tensor in expected.items()
        if name.startswith(head_prefix) or name.endswith(".num_batches_tracked")
    }
    fitting = {
        name: tensor
        for name, tensor in _by_present_names(state).items()
        if not name.startswith(("AuxLogits.", "aux1.", "aux2."))
        and not _is_other_head(name, tensor, head_prefix, expected)
    }
    return {**own, **fitting}


def _by_present_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's published weights name a layer `norm.1` that torchvision now calls `norm1`."""
    return {_OLD_DENSENET_NAME.sub(r"\1\2.", name): tensor for name, tensor in state.items()}


def _is_other_head(
    name: str, tensor: Tensor, head_prefix: str, expected: Mapping[str, Tensor]
) -> bool:
    return name.startswith(head_prefix) and (
        name not in expected or tensor.shape != expected[name].shape
    )


def _strange_names(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if missing := sorted(expected.keys() - state.keys()):
        return f"{len(missing)} tensors are missing ({missing[0]})"
    if extra := sorted(state.keys() - expected.keys()):
        return f"{len(extra)} tensors are unknown to the network ({extra[0]})"
    return ""


def _first_misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if strange := _strange_names(expected, state):
        return strange
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        if tensor.dtype != expected[name].dtype:
            return f"{name} has type {tensor.dtype}, not {expected[name].dtype}"
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} holds values that are not finite"
    return ""
