"""Serialization of weights: safetensors, and safe reading of `torch.save` files.

No code in a file is run. Neither safetensors nor torch detects a flipped bit: callers verify a
sha256 first.
"""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from trialrun.errors import InvalidModelDirectoryError, summarize_error
from trialrun.files import hash_file
from trialrun.images.decoding.file_io import (
    FileFingerprint,
    read_fingerprint,
    read_stable_fingerprint,
)
from trialrun.models.weights.pickle_contents import NEWEST_READABLE, find_global, read_protocol
from trialrun.models.weights.state_dicts import (
    SAVE_TENSORS_HINT,
    check_dense,
    find_state_dict,
    is_state_dict,
    strip_wrappers,
)

_INITIAL_HINT = "Give weights of the same network; those of a ViT or MaxViT need one image_size."
_SHOWN_NAMES = 10
_COUNT = ".num_batches_tracked"
_OLD_DENSENET_NAME = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.([12])\.")
# torch's message for a pickle that names code; it has another message for modules like os.
_REFUSED_GLOBAL = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")
_SOURCE_HINT = "Train or export the model again, or take another copy of it."


def serialize_state(state: Mapping[str, Tensor]) -> bytes:
    """Serialize a state dict as safetensors; equal weights give equal bytes."""
    tensors = {
        name: tensor.detach().to("cpu").contiguous(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    return safetensors.torch.save(tensors)


def hash_weights(content: bytes) -> str:
    """Return the sha256 of serialized weights, as `sha256sum model.safetensors` prints it."""
    return hashlib.sha256(content).hexdigest()


def parse_safetensors(data: bytes, source: Path) -> dict[str, Tensor]:
    """Parse a state dict in safetensors format.

    Raises:
        InvalidModelDirectoryError: Not safetensors, or damaged.
    """
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InvalidModelDirectoryError(f"{source} is damaged: {error}", _SOURCE_HINT) from error


def parse_torch_save(data: bytes, source: Path) -> dict[str, Tensor]:
    """Parse a state dict written by `torch.save`; a pickle of anything else is refused.

    Raises:
        InvalidModelDirectoryError: Damaged, not a state dict, or asking to run code.
    """
    state = _unpickle_tensors(data, source)
    if not is_state_dict(state):
        raise InvalidModelDirectoryError(f"{source} contains no state dict", _SOURCE_HINT)
    check_dense(state, source)
    return dict(state)


def _unpickle_tensors(data: bytes, source: Path) -> object:
    """Unpickle a `torch.save` file of tensors and plain values.

    Raises:
        InvalidModelDirectoryError: Damaged, or asking to run code.
    """
    try:
        with (
            warnings.catch_warnings()
        ):  # torch warns about pickle protocols; errors are reported below
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's legacy reader can raise any error
        raise _unreadable_error(data, source, error) from error


def _unreadable_error(data: bytes, source: Path, error: Exception) -> InvalidModelDirectoryError:
    """Translate torch's error, without its advice to run the code in the file."""
    if "TorchScript" in str(error):
        return InvalidModelDirectoryError(
            f"{source} is a TorchScript archive, which contains code", SAVE_TENSORS_HINT
        )
    if not isinstance(error, pickle.UnpicklingError):
        return InvalidModelDirectoryError(
            f"{source} is damaged: {summarize_error(error)}", _SOURCE_HINT
        )
    match = _REFUSED_GLOBAL.search(str(error))
    if code := match[1] if match else find_global(data):
        return InvalidModelDirectoryError(
            f"{source} asks to run code while loading ({code}) and is not loaded", SAVE_TENSORS_HINT
        )
    if (protocol := read_protocol(data)) > NEWEST_READABLE:
        return InvalidModelDirectoryError(
            f"{source} uses pickle protocol {protocol}, which cannot be read safely",
            SAVE_TENSORS_HINT,
        )
    return InvalidModelDirectoryError(f"{source} is damaged", _SOURCE_HINT)


@dataclass(frozen=True, slots=True)
class _HashedFile:
    """The sha256 of a file, and the file's fingerprint from before it was hashed."""

    digest: str
    fingerprint: FileFingerprint | None

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is certainly the one that was hashed."""
        known = self.fingerprint
        return known is not None and known == read_fingerprint(str(path.parent), path.name)


@dataclass(slots=True)
class StateMemory:
    """The state dict of the file of weights that was read last, and the sha256 of its content.

    `hashed` are the files that were hashed in blocks of `remember_state` and have not changed.
    """

    digest: str = ""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    hashed: dict[Path, _HashedFile] = field(default_factory=dict)

    def forget_changed(self) -> None:
        """Forget the files that may have changed since they were hashed."""
        self.hashed = {
            path: file
            for path, file in self.hashed.items()
            if file.fingerprint
            and file.fingerprint == read_fingerprint(str(path.parent), path.name)
        }

    def hash(self, path: Path) -> str:
        """Return the sha256 of a file, which is hashed if it is not known.

        Raises:
            OSError: The file cannot be read.
        """
        if path not in self.hashed:
            fingerprint = read_stable_fingerprint(path)
            self.hashed[path] = _HashedFile(hash_file(path), fingerprint)
        return self.hashed[path].digest


_memory: ContextVar[StateMemory | None] = ContextVar("_memory", default=None)


@contextmanager
def remember_state(memory: StateMemory) -> Iterator[None]:
    """Hash each file of weights once in the block, and do not parse what the one before parsed.

    `memory` keeps one state dict for the next block, which readers do not change, and the digests
    of unchanged files.
    """
    memory.forget_changed()
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def read_state_file(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a `.safetensors` or `torch.save` file, also from a checkpoint.

    Raises:
        InvalidModelDirectoryError: The file is missing or damaged, contains no state dict, or asks
            to run code.
    """
    memory = _memory.get()
    if memory is None:
        return _parse_state_file(_read_file(path), path)
    hashed = memory.hashed.get(path)
    if not memory.digest or hashed is None or memory.digest != hashed.digest:
        data = _read_file(path)
        memory.state, memory.digest = _parse_state_file(data, path), hash_weights(data)
    return dict(memory.state)


def hash_state_file(path: Path) -> str:
    """Return the sha256 of a file of weights; see `remember_state`.

    Raises:
        OSError: The file cannot be read.
    """
    memory = _memory.get()
    return hash_file(path) if memory is None else memory.hash(path)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidModelDirectoryError(
            f"{path} cannot be read: {error.strerror or error}", "Give a file of weights."
        ) from error


def _parse_state_file(data: bytes, path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return strip_wrappers(parse_safetensors(data, path), path)
    return strip_wrappers(find_state_dict(_unpickle_tensors(data, path), path), path)


def load_exactly(
    network: nn.Module, state: Mapping[str, Tensor], source: Path, hint: str = _SOURCE_HINT
) -> None:
    """Load `state` into `network`: names, shapes and dtypes must match, and values be finite.

    Raises:
        InvalidModelDirectoryError: A tensor does not match; names the first.
    """
    expected = network.state_dict()
    if problem := _find_first_mismatch(expected, state):
        raise InvalidModelDirectoryError(f"{source}: {problem}", hint)
    # Not load_state_dict: MNASNet's expects version metadata, which safetensors cannot store.
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def load_initial_state(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: Path
) -> None:
    """Load `state` into `network`; a last layer for another number of classes is not loaded.

    Batch normalization's `num_batches_tracked` may be missing: some of torchvision's published
    weights are older than it.

    Raises:
        InvalidModelDirectoryError: A tensor other than the last layer's does not match, or the
            weights are another network's.
    """
    _check_not_foreign(network, state, head_prefix, str(source))
    initial = _adapt_initial(network.state_dict(), state, head_prefix)
    load_exactly(network, initial, source, _INITIAL_HINT)


def check_initial_names(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: str
) -> None:
    """Check that weights have the network's tensor names.

    Shapes are not checked: they may depend on an image size that is not known yet.

    Raises:
        InvalidModelDirectoryError: The weights are another network's.
    """
    _check_not_foreign(network, state, head_prefix, source)
    expected = network.state_dict()
    if problem := _find_unexpected_names(expected, _adapt_initial(expected, state, head_prefix)):
        raise InvalidModelDirectoryError(f"{source}: {problem}", _INITIAL_HINT)


def find_replaced_head(network: nn.Module, state: Mapping[str, Tensor], head_prefix: str) -> str:
    """Return how the last layer of `state` differs from the network's; empty if it is loaded."""
    head = {n: t for n, t in network.state_dict().items() if n.startswith(head_prefix)}
    if all(name in state and state[name].shape == tensor.shape for name, tensor in head.items()):
        return ""
    num_classes = max((len(tensor) for tensor in head.values() if tensor.ndim), default=0)
    stored = [t for n, t in state.items() if n.startswith(head_prefix) and t.ndim]
    if not stored:
        return f"the weights have no last layer: a new one for {num_classes} classes is trained"
    return (
        f"the last layer, which has {max(map(len, stored))} classes, is replaced by a new one for "
        f"{num_classes} classes"
    )


def _check_not_foreign(
    network: nn.Module, state: Mapping[str, Tensor], head_prefix: str, source: str
) -> None:
    """Raise if no tensor but those of the last layer has a name of the network."""
    expected = network.state_dict()
    if not any(n in expected and not n.startswith(head_prefix) for n in _rename_layers(state)):
        raise InvalidModelDirectoryError(
            f"{source} contains weights of another network: none of its {len(state)} tensors has a "
            f"name of this one; they are {_list_names(list(state))}, and should be "
            f"{_list_names(list(expected))}",
            "Give weights of the same network, or rename the tensors.",
        )


def _adapt_initial(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], head_prefix: str
) -> dict[str, Tensor]:
    """Return `state` with torchvision's current names and the network's dtypes.

    Tensors that may be missing or differ come from `expected`: the last layer and batch counts.
    """
    optional = {
        name: tensor
        for name, tensor in expected.items()
        if name.startswith(head_prefix) or name.endswith(_COUNT)
    }
    loaded = {
        name: tensor
        for name, tensor in _rename_layers(state).items()
        if not name.startswith(("AuxLogits.", "aux1.", "aux2."))
        and not _is_other_head(name, tensor, head_prefix, expected)
        and not (name.endswith(_COUNT) and tensor.is_floating_point())  # converted to half, say
    }
    return {**optional, **_convert_dtypes(expected, loaded)}


def _convert_dtypes(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Convert floating-point tensors to the network's dtypes."""
    return {
        name: tensor.to(expected[name].dtype)
        if name in expected and tensor.is_floating_point() and expected[name].is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


def _rename_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `norm.1` in DenseNet's published weights to torchvision's current `norm1`."""
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
        f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'} {problem} "
        f"({_list_names(names)})"
        for names, problem in ((missing, "missing"), (unknown, "unknown to the network"))
        if names
    ]
    return ", ".join(problems)


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _find_first_mismatch(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if problem := _find_unexpected_names(expected, state):
        return problem
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
        if tensor.dtype != expected[name].dtype:
            return f"{name} has type {tensor.dtype}, not {expected[name].dtype}"
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"{name} contains values that are not finite"
    return ""
