"""Evaluation of a network on a labelled set: loss, accuracies and predictions per image.

Tensor letters: N images, C classes.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from trialrun.config import MIN_CLASSES_FOR_TOP5
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.compute.device import to_device
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.inputs.batches import Batch
from trialrun.engine.inputs.data import InputTransform

_NUM_COLUMNS = 6  # of `_score_batch`


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Figures of a labelled set; arrays hold one value per image, in the set's order."""

    loss: float
    accuracy: float
    top5_accuracy: float | None  # None with fewer than five classes
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]  # probability of the predicted class
    label_probability: NDArray[np.float32]  # probability of the true class
    images_per_second: float


def evaluate_network(
    network: nn.Module,
    batches: Iterable[Batch],
    preprocessing: InputTransform,
    compute: ComputeConfig,
    *,
    num_images: int,
    ranks: Ranks = SINGLE_PROCESS,
) -> EvaluationResult:
    """Return loss (cross entropy in nats, unweighted), accuracies and predictions of `network`.

    `batches` hold this rank's share of the set; `num_images` and the figures are of the whole set.
    """
    was_training = network.training
    network.eval()
    started = time.perf_counter()
    table = torch.zeros(num_images, _NUM_COLUMNS, device=compute.device)
    try:
        with torch.inference_mode():
            for batch in batches:
                positions = to_device(torch.from_numpy(batch.positions), compute.device)
                table[positions] = _score_batch(network, batch, preprocessing, compute)
    finally:
        network.train(was_training)
    table = ranks.sum(table).cpu().double()  # one copy from the device
    seconds = time.perf_counter() - started
    loss, correct, in_top5, predicted, confidence, label_probability = table.unbind(1)
    return EvaluationResult(
        loss=float(loss.mean()),
        accuracy=float(correct.mean()),
        top5_accuracy=None if bool((in_top5 < 0).any()) else float(in_top5.mean()),
        predicted=predicted.long().numpy(),
        confidence=confidence.float().numpy(),
        label_probability=label_probability.float().numpy(),
        images_per_second=len(table) / seconds,
    )


def compute_logits(
    network: nn.Module, pixels: Tensor, preprocessing: InputTransform, compute: ComputeConfig
) -> Tensor:
    """Return a batch's (N, C) logits; `pixels` may still be on the CPU."""
    inputs = preprocessing.normalised(to_device(pixels, compute.device))
    with compute.autocast():
        logits: Tensor = network(compute.to_memory_format(inputs))
    return logits


def _score_batch(
    network: nn.Module, batch: Batch, preprocessing: InputTransform, compute: ComputeConfig
) -> Tensor:
    """(N, 6) float32: loss, correct, in top 5, predicted, confidence, label probability."""
    labels = to_device(batch.labels, compute.device)
    logits = compute_logits(network, batch.pixels, preprocessing, compute)
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    label_log_probability = log_probabilities.gather(1, labels[:, None])[:, 0]
    confidence, predicted = log_probabilities.max(dim=1)
    return torch.stack(
        [
            -label_log_probability,
            (predicted == labels).float(),
            _is_in_top5(log_probabilities, labels),
            predicted.float(),
            confidence.exp(),
            label_log_probability.exp(),
        ],
        dim=1,
    )


def _is_in_top5(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """(N,) float32: 1 or 0; -1 with too few classes."""
    if log_probabilities.shape[1] < MIN_CLASSES_FOR_TOP5:
        return torch.full_like(log_probabilities[:, 0], -1)
    top5 = log_probabilities.topk(5, dim=1).indices
    return (top5 == labels[:, None]).any(dim=1).float()
