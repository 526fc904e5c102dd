"""The training loop: batches in, epoch results out.

It does not print, log, save or read files; the caller does.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.compute.threads import limit_threads
from trialrun.engine.compute.torch_errors import NonFiniteLossError, translate_torch_errors
from trialrun.engine.evaluate import EvaluationResult, evaluate_network
from trialrun.engine.evaluation_check import find_evaluation_fault
from trialrun.engine.fine_tuning.phases import enter_phase
from trialrun.engine.head_step import HeadStep, can_train_head
from trialrun.engine.inputs.batches import (
    PREFETCH_DEPTH,
    Batch,
    PrefetchIterator,
    sequential_batches,
    training_batches,
)
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.memory.accumulation import count_valid_images
from trialrun.engine.memory.forecast import check_batch_fits
from trialrun.engine.memory.full_size import check_full_size_fits
from trialrun.engine.memory.release import find_fitting_result
from trialrun.engine.results import EpochResult
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep


def _do_nothing() -> None:
    """Do nothing; the default of `on_step` and `on_valid_batch`."""


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    ranks: Ranks = SINGLE_PROCESS,
    on_step: Callable[[], None] = _do_nothing,
    on_valid_batch: Callable[[], None] = _do_nothing,
) -> Iterator[EpochResult]:
    """Train `state` in place, yielding after each epoch until `config.epochs`.

    An epoch's order and augmentation depend on seed and epoch alone. Stop early by no longer
    iterating. Each of several ranks trains on its share of a step and yields the same figures.
    `on_step` is called after every step, `on_valid_batch` after every batch of validation.

    Raises:
        NonFiniteLossError: The training loss became NaN or infinite; its step was not applied.
        OutOfMemoryError: The batch does not fit; `name_fitting_batch` finds one that does.
        InvalidParameterError: The network cannot train on a batch this small.
    """
    checked = None
    while state.epoch < config.epochs:
        with translate_torch_errors(config.batch_size):
            enter_phase(state, config, ranks)
            if state.train_module is not checked:
                check_batch_fits(state, config)
                check_full_size_fits(state, config, ranks)
                checked = state.train_module
            with _limit_threads_on_features(state, config):
                result = _run_epoch(state, config, ranks, on_step, on_valid_batch)
        state.epoch, state.step, state.train_seconds = result.epoch, 0, 0.0
        yield result


def _limit_threads_on_features(
    state: TrainState, config: TrainConfig
) -> AbstractContextManager[None]:
    if isinstance(state.trainable, nn.Linear) and state.trains_on_features:
        return limit_threads(config.batch_size * state.trainable.weight.numel())
    return nullcontext()


def _run_epoch(
    state: TrainState,
    config: TrainConfig,
    ranks: Ranks,
    on_step: Callable[[], None],
    on_valid_batch: Callable[[], None],
) -> EpochResult:
    started = time.perf_counter()
    epoch = state.epoch + 1
    trained = _train_epoch(state, config, ranks, epoch, on_step)
    validation = _validate(state, config, ranks, on_valid_batch)
    fault = find_evaluation_fault(
        state,
        train_accuracy=trained.accuracy,
        valid_accuracy=validation.accuracy,
        ranks=ranks,
        image_size=state.choose_image_size(epoch),
    )
    return EpochResult(
        epoch=epoch,
        train_loss=trained.loss,
        train_accuracy=trained.accuracy,
        learning_rate=trained.learning_rate,
        train_images_per_second=len(state.data.train) / trained.seconds,
        data_wait_fraction=trained.waited_seconds / trained.seconds,
        epoch_seconds=time.perf_counter() - started,
        validation=validation,
        evaluation_fault=fault,
        num_train_images=state.num_images,
        train_image_size=state.choose_image_size(epoch),
    )


@dataclass(frozen=True, slots=True)
class _TrainTotals:
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    waited_seconds: float


def _train_epoch(
    state: TrainState, config: TrainConfig, ranks: Ranks, epoch: int, on_step: Callable[[], None]
) -> _TrainTotals:
    """Train the epoch's remaining steps; the totals cover all its steps."""
    started = time.perf_counter() - state.train_seconds
    if state.step == 0:
        rank = (ranks.rank,) if ranks.rank else ()  # rank 0 draws the same as a single process
        torch.manual_seed(derive_seed(config.random_seed, "dropout", epoch, *rank))  # and for MixUp
        state.totals.zero_()
        state.num_images = 0
        state.restart_statistics()
    state.set_training()
    step = _make_step(state, config, ranks, epoch)
    batches = _prefetch(
        state,
        training_batches(
            state.data.train,
            epoch=epoch,
            batch_size=config.batch_size,
            random_seed=config.random_seed,
            ranks=ranks,
            first_step=state.step,
            class_sampling=config.class_sampling,
        ),
    )
    for batch in batches:
        state.is_in_step = True
        state.learning_rate = float(state.scheduler.get_last_lr()[0])
        state.totals += step(batch)
        state.step += 1
        if state.num_images is not None:
            state.num_images += batch.num_images_in_step
        state.is_in_step = False
        state.train_seconds = time.perf_counter() - started
        on_step()
    loss_sum, num_correct = ranks.sum(state.totals.clone()).tolist()  # the only copy per epoch
    if not math.isfinite(loss_sum):
        raise NonFiniteLossError(f"the training loss became NaN or infinite in epoch {epoch}")
    return _TrainTotals(
        loss=loss_sum / len(state.data.train),
        accuracy=num_correct / len(state.data.train),
        learning_rate=state.learning_rate,
        seconds=time.perf_counter() - started,
        waited_seconds=batches.waited_seconds,
    )


def _make_step(
    state: TrainState, config: TrainConfig, ranks: Ranks, epoch: int
) -> Callable[[Batch], Tensor]:
    if can_train_head(state, config, ranks):
        return HeadStep(state, config, epoch)
    return TrainingStep(state, config, ranks, epoch, state.choose_image_size(epoch))


def _validate(
    state: TrainState, config: TrainConfig, ranks: Ranks, on_batch: Callable[[], None]
) -> EvaluationResult:
    if state.batch_norm_statistics is not None:
        state.batch_norm_statistics.store()
    ranks.broadcast_tensors(state.inference_model().buffers())
    batch_size = count_valid_images(config, state)
    evaluate = partial(_evaluate, state, ranks, on_batch)
    result, fitting = find_fitting_result(evaluate, batch_size)
    if fitting < batch_size:
        state.valid_batch_size = fitting
    return result


def _evaluate(
    state: TrainState, ranks: Ranks, on_batch: Callable[[], None], batch_size: int
) -> EvaluationResult:
    prefetched = _prefetch(state, sequential_batches(state.data.valid, batch_size, ranks))
    return evaluate_network(
        state.eval_module(),
        _call_after_each(prefetched, on_batch),
        state.data.preprocessing,
        state.compute,
        num_images=len(state.data.valid),
        ranks=ranks,
    )


def _prefetch(state: TrainState, batches: Iterable[Batch]) -> PrefetchIterator:
    """Load batches ahead in a thread; features are in memory and need none."""
    depth = 0 if state.trains_on_features else PREFETCH_DEPTH
    return PrefetchIterator(batches, depth, pin_memory=state.compute.pins_memory)


def _call_after_each(batches: Iterable[Batch], on_batch: Callable[[], None]) -> Iterator[Batch]:
    """Yield the batches; call `on_batch` when the caller has processed one."""
    for batch in batches:
        yield batch
        on_batch()
