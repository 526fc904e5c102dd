"""The last layer of a trained network for other classes: rows move with their class's name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HeadTransfer:
    """Tensors of the last layer, and how many classes kept their rows, are new, were dropped."""

    tensors: Mapping[str, Tensor]
    num_kept: int
    num_new: int
    num_dropped: int

    def __str__(self) -> str:
        dropped = f"; {self.num_dropped} of its classes are dropped" if self.num_dropped else ""
        return (
            f"by class name, {self.num_kept} of {self.num_kept + self.num_new} classes keep their "
            f"rows of the last layer, {self.num_new} are new{dropped}"
        )


def transfer_head(
    fresh: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    head_prefix: str,
    *,
    old_classes: Sequence[str],
    new_classes: Sequence[str],
) -> HeadTransfer:
    """The last layer of `fresh` with the rows that `trained` has for classes of the same name.

    A row is all that a class has of a tensor: (C, F) of a linear layer, (C, F, 1, 1) of a
    convolution, (C,) of a bias. A last layer of other inputs gives no rows.
    """
    tensors = {name: tensor for name, tensor in fresh.items() if name.startswith(head_prefix)}
    old_rows = {label: row for row, label in enumerate(old_classes)}
    kept = [label for label in new_classes if label in old_rows]
    if not all(_has_rows(trained.get(n), t, len(old_classes)) for n, t in tensors.items()):
        kept = []
    targets = torch.tensor([new_classes.index(label) for label in kept], dtype=torch.long)
    sources = torch.tensor([old_rows[label] for label in kept], dtype=torch.long)
    moved = {}
    for name, tensor in tensors.items():
        moved[name] = tensor.detach().clone()
        if kept:
            moved[name][targets] = trained[name][sources].to(tensor.dtype)
    num_new = len(new_classes) - len(kept)
    return HeadTransfer(moved, len(kept), num_new, len(old_classes) - len(kept))


def _has_rows(trained: Tensor | None, fresh: Tensor, num_classes: int) -> bool:
    return trained is not None and trained.shape == (num_classes, *fresh.shape[1:])
