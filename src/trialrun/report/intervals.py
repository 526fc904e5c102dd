"""Confidence intervals of one model's metrics, for any number of images and for groups of images.

The interval of a metric is computed for its error: 1 minus the metric, or the log loss as a share
of the largest loss. The variance of the error comes from the influence of each image (the delta
method); images of one group vary together, so their influences are added first. The limits are
those of a beta distribution after one more image (or group) with one of the largest effects.
Array letters: N images, C classes, G groups.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialrun.report.limits import limit_share_above, limit_share_below
from trialrun.report.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    LARGEST_LOSS,
    LOG_LOSS,
    MACRO_F1,
    ClassCounts,
    Values,
    compute_losses,
    count_classes,
)
from trialrun.report.predictions import Predictions

Groups = NDArray[np.int64]  # (N,) group of each image, from 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a metric or difference."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _ErrorEstimate:
    """The error of a model, and what one image changes.

    `rise` and `fall` are the most by which one more image of each kind raises or lowers the error.
    `excess` and `deficit` are biases: the amounts by which the estimate may be too high or too low.
    """

    error: float
    influence: Values  # (N,), sums to about 0
    rise: Values  # (N,)
    fall: Values  # (N,)
    excess: float = 0.0
    deficit: float = 0.0
    stretch: float = 1.0  # factor of the variance


def compute_interval(
    metric: str, predictions: Predictions, confidence: float = 0.95, groups: Groups | None = None
) -> Interval:
    """Return the interval of one model's metric on N images; its width is never 0.

    Args:
        metric: One of `METRICS`.
        predictions: At least one image.
        confidence: The probability of an interval that holds the metric's true value.
        groups: Images of one group are not independent; None if all images are.

    Raises:
        KeyError: `metric` is unknown.
    """
    tail = (1 - confidence) / 2
    if metric == ACCURACY and groups is None:
        return limit_binomial(int(predictions.right.sum()), len(predictions), tail)
    low, high = _limit_error(_ESTIMATES[metric](predictions), groups, tail)
    if metric == LOG_LOSS:
        return Interval(low * LARGEST_LOSS, high * LARGEST_LOSS)
    return Interval(1 - high, 1 - low)


def limit_binomial(num_right: int, num_images: int, tail: float) -> Interval:
    """Return the exact interval of a share; `tail` is the probability outside on each side.

    Source:
        Clopper and Pearson 1934, Biometrika 26, 404-413.
    """
    from scipy.special import betaincinv

    num_wrong = num_images - num_right
    low = float(betaincinv(num_right, num_wrong + 1, tail)) if num_right else 0.0
    high = float(betaincinv(num_right + 1, num_wrong, 1 - tail)) if num_wrong else 1.0
    return Interval(low, high)


def _limit_error(
    estimate: _ErrorEstimate, groups: Groups | None, tail: float
) -> tuple[float, float]:
    influence = add_by_group(estimate.influence, groups)
    if len(influence) < 2:
        return 0.0, 1.0  # one image or group says nothing about others
    rise, fall = (
        average_largest(add_by_group(effect, groups), tail)
        for effect in (estimate.rise, estimate.fall)
    )
    correction = len(influence) / (len(influence) - 1)
    variance = float((influence**2).sum()) * correction * estimate.stretch
    return (
        limit_share_below(estimate.error - estimate.excess - fall, variance + fall**2, tail),
        limit_share_above(estimate.error + estimate.deficit + rise, variance + rise**2, tail),
    )


def add_by_group(values: Values, groups: Groups | None) -> Values:
    """Return the (G,) sums of (N,) values; the values themselves if `groups` is None."""
    return values if groups is None else np.bincount(groups, values).astype(np.float64)


def average_largest(effects: Values, tail: float) -> float:
    """Return the mean of the largest effects that a test set may happen not to show.

    An event that a test set does not contain with a probability of `tail` has an expected number
    of -ln(tail): as many images (or groups) could have shown it, each with its own effect. A
    single image or group of an exceptional weight is only one of them.
    """
    number = math.ceil(-math.log(tail))
    return float(np.sort(effects)[-number:].mean())


def _estimate_accuracy(predictions: Predictions) -> _ErrorEstimate:
    return _estimate_mean((~predictions.right).astype(np.float64))


def _estimate_log_loss(predictions: Predictions) -> _ErrorEstimate:
    return _estimate_mean(compute_losses(predictions) / LARGEST_LOSS)


def _estimate_mean(errors: Values) -> _ErrorEstimate:
    num_images, error = len(errors), float(errors.mean())
    effect = np.full(num_images, 1 / (num_images + 1))
    return _ErrorEstimate(
        error=error,
        influence=(errors - error) / num_images,
        rise=effect * (1 - error),
        fall=effect * error,
    )


def _estimate_balanced_accuracy(predictions: Predictions) -> _ErrorEstimate:
    """Weight the error of each image by the inverse of its class's size.

    The influence is relative to the overall error and not to that of the class, which a class of
    few images does not show.
    """
    counts, labels = count_classes(predictions), predictions.labels
    class_errors = np.where(counts.has_images, 1 - counts.recall, 0.0)
    error = float(class_errors.sum() / counts.num_present)
    weight = 1 / (counts.num_present * counts.labelled[labels])
    effect = 1 / (counts.num_present * (counts.labelled[labels] + 1))
    return _ErrorEstimate(
        error=error,
        influence=weight * (~predictions.right - error),
        rise=effect * (1 - class_errors[labels]),
        fall=effect * class_errors[labels],
    )


def _estimate_macro_f1(predictions: Predictions) -> _ErrorEstimate:
    """Linearise the F1 scores.

    A class of n images has F1 = 2 right / (labelled + predicted), whose denominator varies, too: an
    image is counted in the classes of its label and its prediction. A class of one image has no
    variation of its own, so the influence is relative to a score shrunk towards the mean of all
    classes, as if each class had one more image with that mean.
    """
    counts, labels, predicted = (
        count_classes(predictions),
        predictions.labels,
        predictions.predicted,
    )
    num_present = counts.num_present
    scores = counts.f1
    mean = float(scores.sum() / num_present)
    shrunk = (counts.total * scores + 2 * mean) / (counts.total + 2)  # an image counts twice
    weight = np.where(counts.has_images, 1 / (num_present * np.maximum(counts.total, 1)), 0.0)
    effect = 2 / (num_present * (counts.total[labels] + 2))
    return _ErrorEstimate(
        error=1 - mean,
        influence=2 * weight[labels] * predictions.right
        - (weight * shrunk)[labels]
        - (weight * shrunk)[predicted],
        rise=effect * (counts.right[labels] > 0),
        fall=effect * (1 - scores[labels]),
        excess=_compute_f1_bias(counts),
        deficit=_compute_missing_false_positives(predictions, counts, weight * scores),
        stretch=1 + num_present / len(predictions),  # degrees of freedom of the class counts
    )


def _compute_f1_bias(counts: ClassCounts) -> float:
    """Return by how much a macro F1 of few images is too low, by the jackknife in closed form.

    Source:
        Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 2.
    """
    total, right = counts.total[counts.has_images], counts.right[counts.has_images]
    size = total * np.maximum(total - 1, 1) * np.maximum(total - 2, 1)
    return float((2 * right * (total - 2 * right) / size).mean())


def _compute_missing_false_positives(
    predictions: Predictions, counts: ClassCounts, loss: Values
) -> float:
    """Return by how much predictions of classes without test images flatter the macro F1.

    In a larger test set they would be false positives, each of which costs a class its `loss`.
    """
    num_absent = int((~counts.has_images[predictions.predicted]).sum())
    return float(num_absent * loss[counts.has_images].mean())


_ESTIMATES = {
    ACCURACY: _estimate_accuracy,
    BALANCED_ACCURACY: _estimate_balanced_accuracy,
    MACRO_F1: _estimate_macro_f1,
    LOG_LOSS: _estimate_log_loss,
}
