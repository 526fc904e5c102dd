"""Detection of a broken evaluation mode, which would look like overfitting.

A network can learn and still validate at chance, because its running batch-norm statistics or the
moving average of its weights are stale. With overfitting, training images are classified well in
evaluation mode too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trialrun.distributed import Ranks
from trialrun.engine.evaluate import compute_logits, evaluate_network
from trialrun.engine.inputs.batches import Batch, ImageDataset, sequential_batches
from trialrun.engine.inputs.resized import resize_dataset
from trialrun.engine.inputs.seeds import draw_permutation
from trialrun.engine.inputs.stream_order import open_stream_order
from trialrun.engine.state import TrainState

_SAMPLE_SEED = 0
_MAX_IMAGES = 256  # training images per check, which bounds the cost in suspicious epochs
_MIN_LEAD = 0.25  # minimum lead of the training accuracy over chance for a check
_NEAR_CHANCE_SHARE = 0.5  # share of that lead below which an accuracy counts as near chance


@dataclass(frozen=True, slots=True)
class EvaluationFault:
    """The cause that makes an epoch's validation figures meaningless, and the evidence for it."""

    cause: str  # "batch_norm" or "ema"
    training_mode_accuracy: float
    evaluation_mode_accuracy: float  # on the same training images

    def __str__(self) -> str:
        cause = {
            "batch_norm": "the running statistics of its normalization layers are stale",
            "ema": "the moving average of its weights is far behind them: lower ema or set it to 0",
        }[self.cause]
        return (
            f"evaluation mode is broken, this is not overfitting: {cause}. On the same training "
            f"images accuracy is {self.training_mode_accuracy:.3f} in training mode and "
            f"{self.evaluation_mode_accuracy:.3f} in evaluation mode"
        )


def find_evaluation_fault(
    state: TrainState,
    *,
    train_accuracy: float,
    valid_accuracy: float,
    ranks: Ranks,
    image_size: int | None = None,
) -> EvaluationFault | None:
    """Compare both modes on training images if validation is far below training.

    Args:
        state: After an epoch; unchanged afterwards, except that it draws from torch's generator.
        train_accuracy: Of the epoch's training steps, 0 to 1.
        valid_accuracy: Of the network in evaluation mode, 0 to 1.
        ranks: Every rank calls this with the same accuracies.
        image_size: That of the epoch's training images, at which both modes are compared: a network
            that has seen small images only may not yet classify large ones. None is the full size.
    """
    if state.trainable is not state.network:
        return None  # the last layer on features is the same in both modes
    chance = max(
        _compute_majority_share(data.labels) for data in (state.data.train, state.data.valid)
    )
    lead = train_accuracy - chance
    near_chance = chance + _NEAR_CHANCE_SHARE * lead
    if lead < _MIN_LEAD or valid_accuracy >= near_chance:
        return None
    sample = _select_sample(state, ranks, image_size)
    evaluated = _measure_evaluation_accuracy(state, state.eval_module(), sample, ranks)
    if evaluated >= near_chance:
        return None  # overfitting, or validation images from another distribution
    if state.ema is not None:
        without_ema = _measure_evaluation_accuracy(state, state.network, sample, ranks)
        if without_ema >= near_chance:
            return EvaluationFault("ema", without_ema, evaluated)
    trained = _measure_training_accuracy(state, sample, ranks)
    return EvaluationFault("batch_norm", trained, evaluated) if trained >= near_chance else None


def _compute_majority_share(labels: NDArray[np.int64]) -> float:
    return float(np.bincount(labels).max() / len(labels))


def _select_sample(state: TrainState, ranks: Ranks, image_size: int | None) -> ImageDataset:
    """Draw training images, the same number for each rank."""
    train = state.data.train
    num_images = min(len(train), _MAX_IMAGES) // ranks.world_size * ranks.world_size
    # Shuffled, because a batch of one class has different statistics than a training batch.
    if train.sharding is None:
        chosen = draw_permutation(len(train), _SAMPLE_SEED)[:num_images]
    else:  # of few shards
        chosen = open_stream_order(train.sharding.numbers, _SAMPLE_SEED, 1)[:num_images]
    return resize_dataset(train, state.data.preprocessing, image_size).take(chosen)


def _iterate_batches(sample: ImageDataset, ranks: Ranks) -> Iterator[Batch]:
    return sequential_batches(sample, 32, ranks)


def _measure_evaluation_accuracy(
    state: TrainState, network: nn.Module, sample: ImageDataset, ranks: Ranks
) -> float:
    return evaluate_network(
        network,
        _iterate_batches(sample, ranks),
        state.data.preprocessing,
        state.compute,
        num_images=len(sample),
        ranks=ranks,
    ).accuracy


def _measure_training_accuracy(state: TrainState, sample: ImageDataset, ranks: Ranks) -> float:
    num_correct = torch.zeros((), device=state.compute.device)
    with _use_training_mode(state.network), torch.no_grad():
        for batch in _iterate_batches(sample, ranks):
            logits = compute_logits(
                state.network, batch.pixels, state.data.preprocessing, state.compute
            )
            num_correct += (logits.argmax(dim=1).cpu() == batch.labels).sum().to(num_correct)
    return float(ranks.sum(num_correct)) / len(sample)


@contextmanager
def _use_training_mode(network: nn.Module) -> Iterator[None]:
    """Run a block in training mode and undo its changes to running statistics."""
    saved = [(buffer, buffer.clone()) for buffer in network.buffers()]
    was_training = network.training
    network.train()
    try:
        yield
    finally:
        network.train(was_training)
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)
