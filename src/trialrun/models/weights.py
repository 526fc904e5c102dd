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

from trialrun.errors import InvalidModelDirectoryError, summarize_error
from trialrun.models.pickle_contents import NEWEST_READABLE, find_global, read_protocol
from trialrun.models.state_dicts import (
    SAVE_HINT,
    check_dense,
    find_state_dict,
    is_state_dict,
    strip_wrappers,
)

_INITIAL_HINT = "Give weights of this very network; a ViT's and a MaxViT's are of one image_size."
_COUNT = ".num_batches_tracked"
_OLD_DENSENET_NAME = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.([12])\.")
# torch's words for a pickle that names code; those of modules such as os it words otherwise.
_REFUSED_GLOBAL = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")
_SOURCE_HINT = "Train or export the model again, or take another copy of it."


def serialize_state(state: Mapping[str, Tensor]) -> bytes:
    """A state dict in safetensors format; equal weights give equal bytes."""
    tensors = {
        name: tensor.detach().to("cpu").contiguous(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return safetensors.torch.save(tensors)


def hash_weights(content: bytes) -> str:
    """What identifies weights: the hash that `sha256sum model.safetensors` prints."""
    return hashlib.sha256(content).hexdigest()


def hash_state(state: Mapping[str, Tensor]) -> str:
    """What identifies a state dict in memory: names, types, shapes and values, in its order.

    One tensor at a time is copied, and only where its values do not follow each other in memory.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        values = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parse_safetensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """The state dict in safetensors bytes.

    Raises:
        InvalidModelDirectoryError: Not safetensors, or damaged.
    """
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InvalidModelDirectoryError(f"{source} is damaged: {error}", _SOURCE_HINT) from error


def parse_torch_save(data: bytes, source: Path) -> dict[str, Tensor]:
    """The state dict that `torch.save` wrote; a pickle that asks for more than tensors is refused.

    Raises:
        InvalidModelDirectoryError: Damaged, not a state dict, or asking to run code.
    """
    state = _unpickle_tensors(data, source)
    if not is_state_dict(state):
        raise InvalidModelDirectoryError(f"{source} holds no state dict", _SOURCE_HINT)
    check_dense(state, source)
    return dict(state)


def _unpickle_tensors(data: bytes, source: Path) -> object:
    """What `torch.save` wrote, if it is made of tensors and plain values.

    Raises:
        InvalidModelDirectoryError: Damaged, or asking to run code.
    """
    try:
        with warnings.catch_warnings():  # torch muses on pickle protocols; the outcome is ours
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's legacy reader raises whatever its bytes lead to
        raise _unreadable_error(data, source, error) from error


def _unreadable_error(data: bytes, source: Path, error: Exception) -> InvalidModelDirectoryError:
    """Why torch did not read a file, without its advice to run what the file holds."""
    if "TorchScript" in str(error):
        return InvalidModelDirectoryError(
            f"{source} is a TorchScript archive, which holds code", SAVE_HINT
        )
    if not isinstance(error, pickle.UnpicklingError):
        return InvalidModelDirectoryError(
            f"{source} is damaged: {summarize_error(error)}", _SOURCE_HINT
        )
    named = _REFUSED_GLOBAL.search(str(error))
    if code := named[1] if named else find_global(data):
        return InvalidModelDirectoryError(
            f"{source} asks to run code while loading ({code}), and is refused", SAVE_HINT
        )
    if (protocol := read_protocol(data)) > NEWEST_READABLE:
        return InvalidModelDirectoryError(
            f"{source} uses pickle protocol {protocol}, which cannot be read safely", SAVE_HINT
        )
    return InvalidModelDirectoryError(f"{source} is damaged", _SOURCE_HINT)


def read_state_file(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file or one of `torch.save`, be it in a checkpoint.

    Raises:
        InvalidModelDirectoryError: The file is not there, damaged, holds no state dict, or asks to
            run code.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModelDirectoryError(
            f"{path} cannot be read: {error.strerror or error}", "Give a file of weights."
        ) from error
    if path.suffix == ".safetensors":
        return strip_wrappers(parse_safetensors(data, path), path)
    return strip_wrappers(find_state_dict(_unpickle_tensors(data, path), path), path)


def load_exactly(
    network: nn.Module, state: Mapping[str, Tensor], source: Path, hint: str = _SOURCE_HINT
) -> None:
    """Put `state` into `network`, every tensor of the right name, shape, type and finite.

    Raises:
        InvalidModelDirectoryError: With the first tensor that does not fit.
    """
    expected = network.state_dict()
    if problem := _find_first_misfit(expected, state):
        raise InvalidModelDirectoryError(f"{source}: {problem}", hint)
    # Not by load_state_dict: MNASNet's wants to be told a version, which safetensors cannot hold.
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def load_initial_state(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: Path
) -> None:
    """Start `network` from `state`, whose last layer may be for another number of classes.

    Batch norm's count of batches may be missing: torch began to keep it after some of torchvision's
    weights were published.

    Raises:
        InvalidModelDirectoryError: Something other than the last layer does not fit.
    """
    initial = _adapt_initial(network.state_dict(), state, head_prefix)
    load_exactly(network, initial, source, _INITIAL_HINT)


def check_initial_names(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: str
) -> None:
    """Hold weights to the network's names; their shapes may follow from an image size to come.

    Raises:
        InvalidModelDirectoryError: They are another network's.
    """
    expected = network.state_dict()
    if problem := _find_unexpected_names(expected, _adapt_initial(expected, state, head_prefix)):
        raise InvalidModelDirectoryError(f"{source}: {problem}", _INITIAL_HINT)


def _adapt_initial(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], head_prefix: str
) -> dict[str, Tensor]:
    """`state` under present names and in the network's own precision.

    What it may lack or have otherwise is taken from `expected`.
    """
    own = {
        name: tensor
        for name, tensor in expected.items()
        if name.startswith(head_prefix) or name.endswith(_COUNT)
    }
    fitting = {
        name: tensor
        for name, tensor in _rename_layers(state).items()
        if not name.startswith(("AuxLogits.", "aux1.", "aux2."))
        and not _is_other_head(name, tensor, head_prefix, expected)
        and not (name.endswith(_COUNT) and tensor.is_floating_point())  # of a converted state dict
    }
    return {**own, **_convert_dtypes(expected, fitting)}


def _convert_dtypes(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Floating-point tensors in the type that the network has them in."""
    return {
        name: tensor.to(expected[name].dtype)
        if name in expected and tensor.is_floating_point() and expected[name].is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


def _rename_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's published weights name a layer `norm.1` that torchvision now calls `norm1`."""
    return {_OLD_DENSENET_NAME.sub(r"\1\2.", name): tensor for name, tensor in state.items()}


def _is_other_head(
    name: str, tensor: Tensor, head_prefix: str, expected: Mapping[str, Tensor]
) -> bool:
    return name.startswith(head_prefix) and (
        name not in expected or tensor.shape != expected[name].shape
    )


def _find_unexpected_names(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    problems = [
        f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'} {what} ({names[0]})"
        for names, what in ((missing, "missing"), (unknown, "unknown to the network"))
        if names
    ]
    return ", ".join(problems)


def _find_first_misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if strange := _find_unexpected_names(expected, state):
        return strange
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        if tensor.dtype != expected[name].dtype:
            return f"{name} has type {tensor.dtype}, not {expected[name].dtype}"
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} holds values that are not finite"
    return ""
