"""Running batch-norm statistics that are usable for validation after few steps.

In training mode batch norm uses the mean and variance of the batch; in evaluation mode it uses
running averages of them, which start at 0 and 1. torchvision gives some networks a momentum for
hundreds of thousands of steps (MNASNet 0.0003, MobileNetV3 0.01): after a few hundred steps their
averages are still near the initial values, and a network that has learned validates at chance.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# The averages cover about the last twentieth of all steps so far, until a layer's own momentum
# covers less: from step 180 on with the usual 0.1. Chosen by benchmarks/batch_norm.py.
_WINDOW = 20


class RunningStatistics:
    """Running averages of a network's batch-norm statistics, with a momentum that is warmed up.

    The layers get momentum 1, so their buffers hold the statistics of the last batch. The averages
    are held here until `store` writes them into the buffers. Changing the layers' momentum instead
    would make torch.compile recompile at every step. Training does not use these averages, so the
    weights stay the same, bit for bit.
    """

    def __init__(self, network: nn.Module) -> None:
        self.step = 0
        self.first_step = 0  # since which the averages count
        self._groups: dict[float, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for norm in network.modules():
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.momentum:
                assert norm.running_var is not None
                averages, latest = self._groups[norm.momentum]
                latest += [norm.running_mean, norm.running_var]
                averages += [norm.running_mean.clone(), norm.running_var.clone()]
                norm.momentum = 1.0
        self._part_sums: dict[float, list[Tensor]] = {}

    @property
    def has_layers(self) -> bool:
        """Whether the network has batch norm with running averages."""
        return bool(self._groups)

    @property
    def rule(self) -> str:
        """The momentum's formula, n counting steps from 0; `none` without batch norm."""
        rules = [f"max({own:g}, {_WINDOW} / (n + {_WINDOW}))" for own in sorted(self._groups)]
        return ", ".join(rules) or "none"

    def list_averages(self) -> list[Tensor]:
        """Return the running averages, not copied, in a fixed order."""
        return [tensor for averages, _ in self._groups.values() for tensor in averages]

    def restart(self) -> None:
        """Forget the averages: the next steps have images of another size, and other statistics.

        The first step replaces them; the following ones average until the usual momentum does.
        """
        self.first_step = self.step

    def drop_parts(self) -> None:
        """Forget the parts that `add_part` has added since the last update."""
        self._part_sums.clear()

    @torch.no_grad()
    def add_part(self, share: float) -> None:
        """Add the statistics of the last forward pass, over `share` of a batch, 0 to 1."""
        for own, (_, latest) in self._groups.items():
            weighted = torch._foreach_mul(latest, share)
            if own in self._part_sums:
                torch._foreach_add_(self._part_sums[own], weighted)
            else:
                self._part_sums[own] = list(weighted)

    @torch.no_grad()
    def update(self) -> None:
        """Add the statistics of the last batch that the network processed in training mode.

        After calls of `add_part`, these are the average of the parts, which also becomes the
        content of the network's buffers.
        """
        for own, sums in self._part_sums.items():
            torch._foreach_copy_(self._groups[own][1], sums)
        self.drop_parts()
        for own, (averages, latest) in self._groups.items():
            momentum = compute_momentum(own, self.step, self.first_step)
            torch._foreach_lerp_(averages, latest, momentum)
        self.step += 1

    @torch.no_grad()
    def store(self) -> None:
        """Write the averages into the network's buffers, for evaluation and for saving."""
        for averages, latest in self._groups.values():
            torch._foreach_copy_(latest, averages)


def compute_momentum(own: float, step: int, first_step: int = 0) -> float:
    """Return the weight of the batch of step `step` (from 0) in the running averages, in (0, 1].

    `own` is the layer's own momentum; steps before `first_step` do not count.
    """
    return max(own, _WINDOW / (step + _WINDOW), 1 / (step - first_step + 1))
