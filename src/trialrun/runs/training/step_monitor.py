"""What happens after each training step: the check for a stop signal, on all ranks together."""

from collections.abc import Callable

import torch

from trialrun.distributed import Ranks
from trialrun.runs.signals import StopRequest

# All ranks must stop after the same step: the others would wait for a gradient forever. On a CPU
# agreeing takes a tenth of a millisecond. On CUDA the host would wait for the GPU at every step.
_CUDA_STEPS = 16


def _ignore_step() -> None:
    """Do nothing; the default of `on_step`."""


class StepMonitor:
    """Raises `RunInterruptedError` after the step in which a signal arrived at this or any rank."""

    def __init__(
        self,
        request: StopRequest,
        ranks: Ranks,
        device: torch.device,
        on_step: Callable[[], None] = _ignore_step,
    ) -> None:
        self._request, self._ranks, self._on_step = request, ranks, on_step
        self._interval = _CUDA_STEPS if device.type == "cuda" else 1
        self._num_steps = 0

    def on_step(self) -> None:
        """Call `on_step`, then check for a signal."""
        self._num_steps += 1
        self._on_step()
        if self._ranks.world_size == 1:
            self._request.raise_if_set()
        elif self._num_steps % self._interval == 0 and self._ranks.any(self._request.is_set):
            self._request.raise_agreed()
