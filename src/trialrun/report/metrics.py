"""The metrics that versions are compared by, computed from predictions.

Macro averages are over the classes that have images.
Array letters: N images, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialrun.config.promote import METRICS
from trialrun.report.predictions import Predictions

Values = NDArray[np.float64]

ACCURACY, BALANCED_ACCURACY, MACRO_F1 = "accuracy", "balanced_accuracy", "macro_f1"
LOG_LOSS = "log_loss"
# As in scikit-learn's log_loss; it limits the loss of an image to 15.9 nats.
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)
LARGEST_LOSS = float(-np.log(_SMALLEST_PROBABILITY))


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """(C,) numbers of images: labelled, predicted, and both."""

    labelled: Values
    predicted: Values
    right: Values

    @property
    def has_images(self) -> NDArray[np.bool_]:
        """(C,) whether a class has labelled images."""
        has_images: NDArray[np.bool_] = self.labelled > 0
        return has_images

    @property
    def num_present(self) -> int:
        """The number of classes that have labelled images."""
        return int(self.has_images.sum())

    @property
    def recall(self) -> Values:
        """(C,) recall; 0 for a class without images."""
        return _divide(self.right, self.labelled)

    @property
    def f1(self) -> Values:
        """(C,) F1 score; 0 for a class without images."""
        return np.where(self.has_images, _divide(2 * self.right, self.total), 0.0)

    @property
    def total(self) -> Values:
        """(C,) denominator of the F1 score: labelled plus predicted images."""
        return self.labelled + self.predicted


def count_classes(predictions: Predictions) -> ClassCounts:
    """Count the labelled, predicted and correctly predicted images of each class."""
    num_classes = len(predictions.classes)
    return ClassCounts(
        *(
            np.bincount(indices, minlength=num_classes).astype(np.float64)
            for indices in (
                predictions.labels,
                predictions.predicted,
                predictions.labels[predictions.right],
            )
        )
    )


def _divide(part: Values, whole: Values) -> Values:
    """Return part / whole; 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def lower_is_better(metric: str) -> bool:
    """Whether lower values of a metric are better."""
    return metric == LOG_LOSS


def compute_losses(predictions: Predictions) -> Values:
    """Return the (N,) cross entropies in nats, each from 0 to `LARGEST_LOSS`."""
    return -np.log(np.clip(predictions.label_probability, _SMALLEST_PROBABILITY, 1.0))


def compute_metric(metric: str, predictions: Predictions) -> float:
    """Return a metric over all images.

    Raises:
        KeyError: `metric` is unknown.
        ValueError: `predictions` is empty.
    """
    if not len(predictions):
        raise ValueError("no images to compute a metric on")
    if metric == LOG_LOSS:
        return float(compute_losses(predictions).mean())
    if metric == ACCURACY:
        return float(predictions.right.mean())
    counts = count_classes(predictions)
    values = {BALANCED_ACCURACY: counts.recall, MACRO_F1: counts.f1}[metric]
    return float(values.sum() / counts.num_present)


def compute_metrics(predictions: Predictions) -> dict[str, float]:
    """Return all metrics by name."""
    return {metric: compute_metric(metric, predictions) for metric in METRICS}


def compute_recall(predictions: Predictions) -> dict[str, float]:
    """Return the recall of each class that has images."""
    counts = count_classes(predictions)
    return {
        name: float(recall)
        for name, recall, has_images in zip(
            predictions.classes, counts.recall, counts.has_images, strict=True
        )
        if has_images
    }
