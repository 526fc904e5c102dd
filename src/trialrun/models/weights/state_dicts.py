"""State dicts in checkpoints of other programs: nested, or with prefixes in their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from trialrun.errors import InvalidModelDirectoryError

SAVE_TENSORS_HINT = "Save tensors only: `torch.save(model.state_dict(), FILE)`, or safetensors."

_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict")
_WRAPPERS = frozenset({"module", "_orig_mod"})  # from DataParallel and torch.compile
_SHOWN_KEYS = 5


def find_state_dict(content: object, source: Path) -> dict[str, Tensor]:
    """Return the state dict in `content`: `content` itself, or an entry of a checkpoint.

    Raises:
        InvalidModelDirectoryError: It is missing, or has a sparse or a meta tensor.
    """
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in _CHECKPOINT_KEYS if key in content]
    for candidate in candidates:
        if is_state_dict(candidate):
            check_dense(candidate, source)
            return dict(candidate)
    raise InvalidModelDirectoryError(
        f"{source} contains no state dict{_describe_content(content)}",
        f"{SAVE_TENSORS_HINT} A checkpoint may have it under {', '.join(_CHECKPOINT_KEYS)}.",
    )


def is_state_dict(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether `content` maps names to tensors."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(t, Tensor) for name, t in content.items())
    )


def check_dense(state: Mapping[str, Tensor], source: Path) -> None:
    """Check that all tensors are dense and have values.

    Raises:
        InvalidModelDirectoryError: A tensor is sparse or a meta tensor; names the first.
    """
    for name, tensor in state.items():
        if tensor.is_meta:
            raise InvalidModelDirectoryError(
                f"{source}: {name} is a meta tensor, which has a shape and no values",
                "Save the state dict after the weights have been loaded to a device.",
            )
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise InvalidModelDirectoryError(
                f"{source}: {name} is not a dense tensor (its layout is {layout})",
                "Save dense tensors: `tensor.to_dense()`.",
            )


def strip_wrappers(state: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Return `state` without `module.` and `_orig_mod.`, which wrappers add to names.

    Raises:
        InvalidModelDirectoryError: Two tensors would have the same name.
    """
    stripped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stripped_name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if stripped_name in stripped:
            raise InvalidModelDirectoryError(
                f"{source} contains {stripped_name} twice, once as {name}", SAVE_TENSORS_HINT
            )
        stripped[stripped_name] = tensor
    return stripped


def _describe_content(content: object) -> str:
    if not isinstance(content, Mapping):
        return f", but a {type(content).__name__}"
    keys = [str(key) for key in content]
    more = " ..." if len(keys) > _SHOWN_KEYS else ""
    return f": its entries are {', '.join(keys[:_SHOWN_KEYS])}{more}" if keys else ": it is empty"
