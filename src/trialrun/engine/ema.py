"""The exponential moving average (EMA) of a network's weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

# The decay of step n is at most (1 + n) / (10 + n). With a decay of 0.999 from the start, 64 % of
# the average after 450 steps would still be initial weights (accuracy 0.45 on the digits, against
# 0.98 without an average). TensorFlow's ExponentialMovingAverage with num_updates warms up alike.
_WARM_UP_STEPS = 10


def compute_decay(target: float, step: int) -> float:
    """Return the decay of step `step` (from 0): `target`, or less in the first steps.

    Source:
        The rule of TensorFlow's `ExponentialMovingAverage(num_updates=…)`.
    """
    return min(target, (1 + step) / (_WARM_UP_STEPS + step))


def describe_ema(target: float) -> str:
    """Return the decay's formula, n counting steps from 0; `none` for a target of 0."""
    return f"min({target:g}, (1 + n) / ({_WARM_UP_STEPS} + n))" if target else "none"


class MovingAverage(AveragedModel):
    """torch's exponential average of weights and batch-norm statistics, with a decay warm-up.

    torch's own `update_parameters` copies its counter to the GPU in every step; this class keeps
    the counter on the CPU.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self._target = decay
        self.first_buffer_update = 0  # since which averages of buffers count

    def restart_buffers(self) -> None:
        """Forget the averages of buffers: the next ones are of images of another size."""
        self.first_buffer_update = int(self.n_averaged)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards `model` by 1 - decay; the first call copies it. Integers are always copied.

        Raises:
            ValueError: `model` has a different number of tensors.
        """
        step = int(self.n_averaged)
        self._average(self.module.parameters(), model.parameters(), step)
        buffers = self.module.buffers(), model.buffers()
        self._average(*buffers, step - self.first_buffer_update)
        self.n_averaged += 1

    def _average(self, averages: Iterable[Tensor], values: Iterable[Tensor], step: int) -> None:
        """Move averages towards values; `step` counts the updates before this one."""
        pairs = list(zip(averages, values, strict=True))
        means = [pair for pair in pairs if pair[0].is_floating_point() and step > 0]
        for average, value in pairs:
            if step == 0 or not average.is_floating_point():
                average.copy_(value)
        if means:
            update = get_ema_multi_avg_fn(compute_decay(self._target, step))
            update(*zip(*means, strict=True), self.n_averaged)
