"""The metrics by which versions are judged, each computed from counts of like images.

Images that a metric cannot tell apart fall into one cell: what it needs is how many images each
cell holds. So a bootstrap draw costs a draw of the cells' counts, not of the images.
Array letters: N images, C classes, K cells, D draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialrun.config.promote import METRICS
from trialrun.report.predictions import Predictions

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

LOG_LOSS = "log_loss"
# As in scikit-learn's log_loss, so that a mistake of which a model is sure costs 15.9 nats at most.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class Cells:
    """Images told apart by label and answers only; `predicted` has a row a model."""

    counts: Counts  # (K,)
    labels: Counts  # (K,)
    predicted: Counts  # (models, K)
    num_classes: int


Statistic = Callable[[Counts, Counts, Counts, int], Values]


@dataclass(frozen=True, slots=True)
class CountMetric:
    """A metric that needs no more than labels and answers; higher is better.

    `coarsened` maps labels and answers to what the metric tells apart; `statistic` takes (D, K)
    counts, (K,) labels, (K,) answers and C, and gives (D,) values.
    """

    coarsened: Callable[[Counts, Counts], tuple[Counts, Counts]]
    statistic: Statistic


def count_cells(metric: CountMetric, models: Sequence[Predictions]) -> Cells:
    """The cells of models that answered the same images, under the same classes."""
    num_classes = len(models[0].classes)
    labels = models[0].labels
    columns = [metric.coarsened(labels, model.predicted) for model in models]
    table = np.stack([columns[0][0], *(answers for _, answers in columns)])
    base = num_classes + 1  # one more: "wrong" is an answer of its own where which is not told
    key = np.zeros(len(labels), dtype=np.int64)
    for row in table:
        key = key * base + row
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    cells = table[:, first]
    return Cells(counts, cells[0], cells[1:], num_classes)


def _right_or_wrong(labels: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    return np.zeros_like(labels), (labels != predicted).astype(np.int64)


def _right_by_class(labels: Counts, predicted: Counts, wrong: int) -> tuple[Counts, Counts]:
    return labels, np.where(labels == predicted, labels, wrong)


def _identity_cells(labels: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    return labels, predicted


def _accuracy(counts: Counts, labels: Counts, predicted: Counts, _num_classes: int) -> Values:
    right: Values = counts @ (labels == predicted) / counts.sum(axis=1)
    return right


def _balanced_accuracy(
    counts: Counts, labels: Counts, predicted: Counts, num_classes: int
) -> Values:
    of_class = _sum_by_class(counts, labels, num_classes)
    hits = _sum_by_class(counts, np.where(labels == predicted, labels, num_classes), num_classes)
    return _mean_over_present(hits, of_class, of_class)


def _macro_f1(counts: Counts, labels: Counts, predicted: Counts, num_classes: int) -> Values:
    of_class = _sum_by_class(counts, labels, num_classes)
    as_class = _sum_by_class(counts, predicted, num_classes)
    hits = _sum_by_class(counts, np.where(labels == predicted, labels, num_classes), num_classes)
    return _mean_over_present(2 * hits, of_class + as_class, of_class)


def _sum_by_class(counts: Counts, groups: Counts, num_groups: int) -> Values:
    """(D, K) to (D, C): the counts of each class's cells; a group past the last is left out."""
    from scipy.sparse import csr_array

    size = len(groups)
    member = csr_array(
        (np.ones(size), (np.arange(size), groups)), shape=(size, max(num_groups + 1, 2))
    )
    summed: Values = (counts @ member)[:, :num_groups]
    return summed


def _mean_over_present(part: Values, whole: Values, present: Values) -> Values:
    """Shares averaged over the classes that have images in the draw."""
    shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    there = present > 0
    mean: Values = (shares * there).sum(axis=1) / there.sum(axis=1)
    return mean


def _coarse_by_class(labels: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    return _right_by_class(labels, predicted, wrong=int(max(labels.max(), predicted.max())) + 1)


COUNT_METRICS = {
    "accuracy": CountMetric(_right_or_wrong, _accuracy),
    "macro_f1": CountMetric(_identity_cells, _macro_f1),
    "balanced_accuracy": CountMetric(_coarse_by_class, _balanced_accuracy),
}


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a loss."""
    return metric == LOG_LOSS


def compute_losses(predictions: Predictions) -> Values:
    """(N,) cross entropy in nats."""
    return -np.log(np.maximum(predictions.label_probability, _SMALLEST_PROBABILITY))


def compute_metric(metric: str, predictions: Predictions) -> float:
    """A metric over all images; macro averages are over the classes that have images.

    Raises:
        KeyError: There is no such metric.
        ValueError: There are no images.
    """
    if not len(predictions):
        raise ValueError("no images to judge by")
    if metric == LOG_LOSS:
        return float(compute_losses(predictions).mean())
    counted = COUNT_METRICS[metric]
    cells = count_cells(counted, [predictions])
    values = counted.statistic(
        cells.counts[None], cells.labels, cells.predicted[0], cells.num_classes
    )
    return float(values[0])


def compute_metrics(predictions: Predictions) -> dict[str, float]:
    """Every metric by name."""
    return {metric: compute_metric(metric, predictions) for metric in METRICS}


def compute_recall(predictions: Predictions) -> dict[str, float]:
    """The share of each class's images that were told right, for classes that have images."""
    num_classes = len(predictions.classes)
    of_class = np.bincount(predictions.labels, minlength=num_classes)
    hits = np.bincount(predictions.labels[predictions.right], minlength=num_classes)
    return {
        name: float(hits[index] / of_class[index])
        for index, name in enumerate(predictions.classes)
        if of_class[index]
    }
