"""Transfer of a trained network's last layer to other classes, matched by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HeadTransfer:
    """Tensors of the last layer, and numbers of classes kept, new and dropped."""

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
    """Return the last layer of `fresh` with the rows of `trained` for classes of the same name.

    Tensors have one row per class: (C, F) of a linear layer, (C, F, 1, 1) of a convolution, (C,) of
    a bias. No row is transferred from a last layer with another number of inputs.
    """
    tensors = {name: tensor for name, tensor in fresh.items() if name.startswith(head_prefix)}
    old_rows = {label: row for row, label in enumerate(old_classes)}
    shared = [label for label in new_classes if label in old_rows]
    if not all(_has_rows(trained.get(n), t, len(old_classes)) for n, t in tensors.items()):
        shared = []
    targets = torch.tensor([new_classes.index(label) for label in shared], dtype=torch.long)
    sources = torch.tensor([old_rows[label] for label in shared], dtype=torch.long)
    head = {}
    for name, tensor in tensors.items():
        head[name] = tensor.detach().clone()
        if shared:
            head[name][targets] = trained[name][sources].to(tensor.dtype)
    num_new = len(new_classes) - len(shared)
    return HeadTransfer(head, len(shared), num_new, len(old_classes) - len(shared))


def _has_rows(trained: Tensor | None, fresh: Tensor, num_classes: int) -> bool:
    return trained is not None and trained.shape == (num_classes, *fresh.shape[1:])
