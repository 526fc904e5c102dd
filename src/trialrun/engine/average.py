"""The moving average of a network's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """torch's exponential average of weights and batch-norm statistics, for which no GPU waits.

    torch's own `update_parameters` copies its counter from the CPU to the GPU at each step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards `model` by 1 - decay; the first time become it, and counters always."""
        pairs = list(zip(_state(self.module), _state(model), strict=True))
        is_first = bool(self.n_averaged == 0)
        means = [pair for pair in pairs if pair[0].is_floating_point() and not is_first]
        for average, value in pairs:
            if is_first or not average.is_floating_point():
                average.copy_(value)
        if means:
            averages, values = zip(*means, strict=True)
            self._move(averages, values, self.n_averaged)
        self.n_averaged += 1


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
