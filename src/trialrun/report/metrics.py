"""The metrics that versions are compared by, computed from counts of equal images.

Images that are equal for a metric form a cell, and the metric needs only the number of images per
cell. A bootstrap draw therefore draws the counts of the cells and not the images.
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
# As in scikit-learn's log_loss; it limits the loss of an image to 15.9 nats.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class Cells:
    """Images grouped by label and predicted classes."""

    counts: Counts  # (K,)
    labels: Counts  # (K,)
    predicted: Counts  # (models, K)
    num_classes: int


Statistic = Callable[[Counts, Counts, Counts, int], Values]


@dataclass(frozen=True, slots=True)
class CountMetric:
    """A metric that depends on labels and predicted classes only; higher is better.

    `merge_equal` replaces labels and predicted classes by what the metric distinguishes.
    `statistic` takes (D, K) counts, (K,) labels, (K,) predicted classes and C. It returns (D,)
    values.
    """

    merge_equal: Callable[[Counts, Counts], tuple[Counts, Counts]]
    statistic: Statistic


def count_cells(metric: CountMetric, models: Sequence[Predictions]) -> Cells:
    """Group the images by label and the predictions of all models, which share their classes."""
    num_classes = len(models[0].classes)
    labels = models[0].labels
    columns = [metric.merge_equal(labels, model.predicted) for model in models]
    table = np.stack([columns[0][0], *(predicted for _, predicted in columns)])
    base = num_classes + 1  # one more, because "wrong" may be a predicted class
    key = np.zeros(len(labels), dtype=np.int64)
    for row in table:
        key = key * base + row
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    cells = table[:, first]
    return Cells(counts, cells[0], cells[1:], num_classes)


def _right_or_wrong(labels: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    return np.zeros_like(labels), (labels != predicted).astype(np.int64)


def _identity_cells(labels: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    return labels, predicted


def _accuracy(counts: Counts, labels: Counts, predicted: Counts, _num_classes: int) -> Values:
    right: Values = counts @ (labels == predicted) / counts.sum(axis=1)
    return right


def _balanced_accuracy(
    counts: Counts, labels: Counts, predicted: Counts, num_classes: int
) -> Values:
    num_labelled = _sum_by_class(counts, labels, num_classes)
    hits = _sum_by_class(counts, np.where(labels == predicted, labels, num_classes), num_classes)
    return _mean_over_present(hits, num_labelled, num_labelled)


def _macro_f1(counts: Counts, labels: Counts, predicted: Counts, num_classes: int) -> Values:
    num_labelled = _sum_by_class(counts, labels, num_classes)
    num_predicted = _sum_by_class(counts, predicted, num_classes)
    hits = _sum_by_class(counts, np.where(labels == predicted, labels, num_classes), num_classes)
    return _mean_over_present(2 * hits, num_labelled + num_predicted, num_labelled)


def _sum_by_class(counts: Counts, groups: Counts, num_groups: int) -> Values:
    """Sum (D, K) counts by class to (D, C); cells with a group of `num_groups` are left out."""
    from scipy.sparse import csr_array

    size = len(groups)
    member = csr_array(
        (np.ones(size), (np.arange(size), groups)), shape=(size, max(num_groups + 1, 2))
    )
    summed: Values = (counts @ member)[:, :num_groups]
    return summed


def _mean_over_present(part: Values, whole: Values, present: Values) -> Values:
    """Return the mean share over the classes that have images in the draw."""
    shares = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    is_present = present > 0
    mean: Values = (shares * is_present).sum(axis=1) / is_present.sum(axis=1)
    return mean


def _right_or_wrong_by_class(labels: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    wrong = int(max(labels.max(), predicted.max())) + 1
    return labels, np.where(labels == predicted, labels, wrong)


COUNT_METRICS = {
    "accuracy": CountMetric(_right_or_wrong, _accuracy),
    "macro_f1": CountMetric(_identity_cells, _macro_f1),
    "balanced_accuracy": CountMetric(_right_or_wrong_by_class, _balanced_accuracy),
}


def lower_is_better(metric: str) -> bool:
    """Whether lower values of a metric are better."""
    return metric == LOG_LOSS


def compute_losses(predictions: Predictions) -> Values:
    """Return the (N,) cross entropies in nats."""
    return -np.log(np.maximum(predictions.label_probability, _SMALLEST_PROBABILITY))


def compute_metric(metric: str, predictions: Predictions) -> float:
    """Return a metric over all images; macro averages are over the classes that have images.

    Raises:
        KeyError: `metric` is unknown.
        ValueError: `predictions` is empty.
    """
    if not len(predictions):
        raise ValueError("no images to compute a metric on")
    if metric == LOG_LOSS:
        return float(compute_losses(predictions).mean())
    count_metric = COUNT_METRICS[metric]
    cells = count_cells(count_metric, [predictions])
    values = count_metric.statistic(
        cells.counts[None], cells.labels, cells.predicted[0], cells.num_classes
    )
    return float(values[0])


def compute_metrics(predictions: Predictions) -> dict[str, float]:
    """Return all metrics by name."""
    return {metric: compute_metric(metric, predictions) for metric in METRICS}


def compute_recall(predictions: Predictions) -> dict[str, float]:
    """Return the recall of each class that has images."""
    num_classes = len(predictions.classes)
    num_labelled = np.bincount(predictions.labels, minlength=num_classes)
    hits = np.bincount(predictions.labels[predictions.right], minlength=num_classes)
    return {
        name: float(hits[index] / num_labelled[index])
        for index, name in enumerate(predictions.classes)
        if num_labelled[index]
    }
