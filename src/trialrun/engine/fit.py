"""The training loop: batches in, epoch results out.

Nothing here prints, logs, saves or reads a file; the caller does.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.compute.torch_errors import NonFiniteLossError, translate_torch_errors
from trialrun.engine.evaluate import evaluate_network
from trialrun.engine.evaluation_check import find_evaluation_fault
from trialrun.engine.inputs.batches import PrefetchIterator, sequential_batches, training_batches
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.results import EpochResult
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep

# Validation keeps no activations for a backward pass, so that twice the batch fits where one did.
_VALID_BATCH_FACTOR = 2


def _ignore_step() -> None:
    """Nobody counts."""


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    ranks: Ranks = SINGLE_PROCESS,
    on_step: Callable[[], None] = _ignore_step,
) -> Iterator[EpochResult]:
    """Train `state` in place, yielding after each epoch until `config.epochs`.

    The order and the augmentation of an epoch depend on seed and epoch alone. Stop early by no
    longer iterating. Of several ranks each learns from its share and yields the same figures.

    Raises:
        NonFiniteLossError: The training loss is no number; its step was not applied.
        OutOfMemoryError: The batch does not fit; the hint names a size to try.
        InvalidParameterError: The network cannot learn from a batch this small.
    """
    while state.epoch < config.epochs:
        started = time.perf_counter()
        epoch = state.epoch + 1
        with translate_torch_errors(config.batch_size):
            trained = _train_epoch(state, config, ranks, epoch, on_step)
            if state.statistics is not None:
                state.statistics.store()
            ranks.take_from_first(state.inference_model().buffers())
            batch_size = _VALID_BATCH_FACTOR * config.batch_size
            batches = sequential_batches(state.task.valid, batch_size, ranks)
            validation = evaluate_network(
                state.eval_module(),
                PrefetchIterator(batches, pin=state.compute.pins_memory),
                state.task.preprocessing,
                state.compute,
                num_images=len(state.task.valid),
                ranks=ranks,
            )
            fault = find_evaluation_fault(
                state,
                train_accuracy=trained.accuracy,
                valid_accuracy=validation.accuracy,
                ranks=ranks,
            )
        state.epoch = epoch
        yield EpochResult(
            epoch=epoch,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            learning_rate=trained.learning_rate,
            train_images_per_second=len(state.task.train) / trained.seconds,
            data_wait_fraction=trained.waited_seconds / trained.seconds,
            epoch_seconds=time.perf_counter() - started,
            validation=validation,
            evaluation_fault=fault,
        )


@dataclass(frozen=True, slots=True)
class _TrainTotals:
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    waited_seconds: float


def _train_epoch(
    state: TrainState,
    config: TrainConfig,
    ranks: Ranks,
    epoch: int,
    on_step: Callable[[], None],
) -> _TrainTotals:
    started = time.perf_counter()
    rank = (ranks.rank,) if ranks.rank else ()  # the first draws what a single process would
    torch.manual_seed(derive_seed(config.random_seed, "dropout", epoch, *rank))  # and MixUp's draws
    state.set_training()
    step = TrainingStep(state, config, ranks, epoch)
    batches = PrefetchIterator(
        training_batches(
            state.task.train,
            epoch=epoch,
            batch_size=config.batch_size,
            random_seed=config.random_seed,
            ranks=ranks,
        ),
        pin=state.compute.pins_memory,
    )
    totals = torch.zeros(
        2, dtype=state.compute.accumulator_dtype, device=state.compute.device
    )  # loss sum, correct
    for batch in batches:
        learning_rate = float(state.scheduler.get_last_lr()[0])
        totals += step(batch)
        on_step()
    loss_sum, num_correct = ranks.sum(totals).tolist()  # the one read off the device
    if not math.isfinite(loss_sum):
        raise NonFiniteLossError(f"the training loss is no longer a number in epoch {epoch}")
    return _TrainTotals(
        loss=loss_sum / len(state.task.train),
        accuracy=num_correct / len(state.task.train),
        learning_rate=learning_rate,
        seconds=time.perf_counter() - started,
        waited_seconds=batches.waited_seconds,
    )
