"""A network's state dict as other programs store it: wrapped in a checkpoint, under other names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from trialrun.errors import InvalidModelDirectoryError

SAVE_HINT = "Save tensors only: `torch.save(model.state_dict(), FILE)`, or safetensors."

_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict")
_WRAPPERS = frozenset({"module", "_orig_mod"})  # of DataParallel and of torch.compile
_SHOWN_KEYS = 5


def find_state_dict(content: object, source: Path) -> dict[str, Tensor]:
    """The state dict that `content` is, or that a checkpoint holds beside epoch, optimizer etc.

    Raises:
        InvalidModelDirectoryError: There is none, or a tensor of it is sparse or has no values.
    """
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in _CHECKPOINT_KEYS if key in content]
    for candidate in candidates:
        if is_state_dict(candidate):
            check_dense(candidate, source)
            return dict(candidate)
    raise InvalidModelDirectoryError(
        f"{source} holds no state dict{_describe_content(content)}",
        f"{SAVE_HINT} A checkpoint may have it as {', '.join(_CHECKPOINT_KEYS)}.",
    )


def is_state_dict(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether `content` maps names to tensors."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(t, Tensor) for name, t in content.items())
    )


def check_dense(state: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors that are not plain arrays of values.

    Raises:
        InvalidModelDirectoryError: With the first that is sparse, or a meta tensor.
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
    """`state` without the `module.` and `_orig_mod.` that wrappers put into names.

    Raises:
        InvalidModelDirectoryError: Two tensors would then have one name.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in plain:
            raise InvalidModelDirectoryError(
                f"{source} holds {short} twice, once as {name}", SAVE_HINT
            )
        plain[short] = tensor
    return plain


def _describe_content(content: object) -> str:
    if not isinstance(content, Mapping):
        return f", but a {type(content).__name__}"
    keys = [str(key) for key in content]
    more = " ..." if len(keys) > _SHOWN_KEYS else ""
    return f": its entries are {', '.join(keys[:_SHOWN_KEYS])}{more}" if keys else ": it is empty"
