"""Hashes of state dicts, whatever the file that they come from."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def hash_state(state: Mapping[str, Tensor]) -> str:
    """Hash the names, dtypes, shapes and values of a state dict, in its order."""
    digest = hashlib.sha256()
    add_to_hash(digest, state)
    return digest.hexdigest()


def add_to_hash(digest: "hashlib._Hash", state: Mapping[str, Tensor]) -> None:
    """Add a state dict, or the next part of one, to the hash of `hash_state`.

    At most one tensor at a time is copied, and only if it is not contiguous.
    """
    for name, tensor in state.items():
        values = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)


def hash_frozen_layers(state: Mapping[str, Tensor], head_prefix: str) -> str:
    """Return `hash_state` of all layers but the last one, whose names start with the prefix."""
    return hash_state({n: t for n, t in state.items() if not n.startswith(head_prefix)})
