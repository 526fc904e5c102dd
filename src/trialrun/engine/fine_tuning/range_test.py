"""The learning rate range test: a short training with a rising learning rate, which is undone.

Source:
    Smith 2017, arXiv:1506.01186, section 3.3.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice

import torch

from trialrun.config import TrainConfig
from trialrun.distributed import Ranks
from trialrun.engine.compute.torch_errors import NonFiniteLossError, translate_torch_errors
from trialrun.engine.inputs.batches import Batch, training_batches
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.optim import set_learning_rate
from trialrun.engine.snapshot import (
    capture_generators,
    capture_tensors,
    capture_values,
    restore_generators,
    restore_state,
)
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep

FALLBACK_RATE = 0.001  # if no rate lowers the loss

_LOWEST, _HIGHEST = 1e-5, 1.0
_NUM_STEPS = 60
_SMOOTHING = 0.9
_DIVERGED = 3.0  # the test ends once the smoothed loss is this many times its lowest value
_MARGIN = 10.0  # between the chosen rate and the rate of the lowest loss


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Learning rates in ascending order, the loss in nats at each, and the chosen rate."""

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed_losses: tuple[float, ...]
    learning_rate: float


def find_learning_rate(state: TrainState, config: TrainConfig, ranks: Ranks) -> RangeTest:
    """Find a peak learning rate before the first epoch; the state is unchanged afterwards.

    The rate is a tenth of the one with the lowest smoothed loss. All ranks call this.

    Raises:
        OutOfMemoryError: The batch does not fit.
    """
    factor = (_HIGHEST / _LOWEST) ** (1 / (_NUM_STEPS - 1))
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    with _undo_training(state), translate_torch_errors(config.batch_size):
        torch.manual_seed(derive_seed(config.random_seed, "range test", ranks.rank))
        state.set_training()
        step = TrainingStep(state, config, ranks, epoch=1)
        for number, batch in enumerate(islice(_repeat_batches(state, config, ranks), _NUM_STEPS)):
            rate = _LOWEST * factor**number
            set_learning_rate(state.optimizer, rate)
            loss = _train_step(step, batch, ranks)
            if not math.isfinite(loss):
                break
            average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
            rates.append(rate)
            losses.append(loss)
            smoothed.append(average / (1 - _SMOOTHING ** (number + 1)))
            if smoothed[-1] > _DIVERGED * min(smoothed):
                break
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), _choose_rate(rates, smoothed))


def _choose_rate(rates: list[float], smoothed: list[float]) -> float:
    lowest = min(range(len(rates)), key=smoothed.__getitem__, default=0)
    return rates[lowest] / _MARGIN if lowest > 0 else FALLBACK_RATE


def _repeat_batches(state: TrainState, config: TrainConfig, ranks: Ranks) -> Iterator[Batch]:
    """Yield batches of one epoch after another; the orders are those of training."""
    for epoch in count(1):
        yield from training_batches(
            state.data.train,
            epoch=epoch,
            batch_size=config.batch_size,
            random_seed=config.random_seed,
            ranks=ranks,
            class_sampling=config.class_sampling,
        )


def _train_step(step: TrainingStep, batch: Batch, ranks: Ranks) -> float:
    """Train on a batch; return the mean loss over all ranks, NaN if it is not finite."""
    try:
        totals = step(batch)
    except NonFiniteLossError:
        return math.nan
    return float(ranks.sum(totals.clone())[0]) / batch.num_images_in_step


@contextmanager
def _undo_training(state: TrainState) -> Iterator[None]:
    """Run a block that trains; afterwards restore everything that it changed."""
    device = state.compute.device
    network = {name: value.clone() for name, value in state.network.state_dict().items()}
    tensors = {name: value.clone() for name, value in capture_tensors(state).items()}
    values = capture_values(state)
    generators = capture_generators(device)
    try:
        yield
    finally:
        state.optimizer.zero_grad()
        state.optimizer.state.clear()
        restore_state(state, network, tensors, values)
        restore_generators(generators, device)
