"""Paired comparison of two models on the same images: difference, interval and significance.

The difference of a metric is a sum of contributions, one per image: gains, for which the challenger
is better, and losses. Gains and losses are treated as weighted sums of events, each with the gamma
limits of Fay and Feuer, which remain valid for few events, for none, and for classes of few images.
The limits of the difference of the two sums are combined by the MOVER (method of variance
estimates recovery).
Array letters: N images, C classes, G groups.

Source:
    Zou and Donner 2008, Statistics in Medicine 27, 1693-1702 (MOVER); see also `limits`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from trialrun.report.intervals import Groups, add_by_group, average_largest
from trialrun.report.limits import limit_sum_above, limit_sum_below
from trialrun.report.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    LARGEST_LOSS,
    LOG_LOSS,
    MACRO_F1,
    Values,
    compute_losses,
    compute_metric,
    count_classes,
    lower_is_better,
)
from trialrun.report.predictions import Predictions, align_classes

_MAX_SCALE = 1e4  # a test set that many times as large is not a useful suggestion
_MAX_IMAGES = 10_000_000


@dataclass(frozen=True, slots=True)
class Contributions:
    """What each image adds to the difference of a metric, and the most that it could take away.

    Both are (N,). `values` sums to the difference; above 0 the challenger is better.
    """

    values: Values
    largest_loss: Values


@dataclass(frozen=True, slots=True)
class EventSums:
    """The sums of the gains and losses of the challenger and of their squares.

    `largest_loss` is the loss that an image (or group) of the largest effect can cause.
    """

    difference: float
    gains: float
    gain_squares: float
    losses: float
    loss_squares: float
    largest_loss: float

    def limit_below(self, confidence: float, scale: float = 1.0) -> float:
        """Return the lower end of the interval, for a test set `scale` times as large."""
        tail = (1 - confidence) / 2
        gains = limit_sum_below(self.gains, self.gain_squares / scale, tail)
        losses = limit_sum_above(
            self.losses, self.loss_squares / scale, self.largest_loss / scale, tail
        )
        return self.difference - math.hypot(self.gains - gains, losses - self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """A challenger and a baseline; `difference` is above 0 if the challenger is better.

    `confidence` belongs to the interval from `low` to `high`. `mcnemar_p` is the p-value of
    McNemar's test: small if the images that only one of the two got right are split unevenly. It
    and `num_groups` are optional: with groups, images are not independent and the test is invalid.
    """

    metric: str
    num_images: int
    num_groups: int | None = None
    baseline: float
    challenger: float
    difference: float
    low: float
    high: float
    confidence: float = 0.95
    only_baseline_right: int
    only_challenger_right: int
    mcnemar_p: float | None
    events: EventSums | None = field(default=None, repr=False)

    def images_to_show(self, bound: float) -> int | None:
        """Estimate how many images with the same shares put `low` above `bound`.

        None if the difference is not above `bound`, or the number exceeds ten million.
        """
        events = self.events
        if events is None or self.difference <= bound:
            return None
        scale = _find_smallest(lambda scale: events.limit_below(self.confidence, scale) > bound)
        if scale is None or scale * self.num_images > _MAX_IMAGES:
            return None
        return _round_up(scale * self.num_images)

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields, without `events`."""
        names = [item.name for item in fields(self) if item.name != "events"]
        return {name: getattr(self, name) for name in names}


def compare_paired(
    metric: str,
    baseline: Predictions,
    challenger: Predictions,
    *,
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> PairedComparison:
    """Compare the challenger with the baseline on the same images.

    Args:
        metric: One of `METRICS`.
        baseline: Predictions for N images.
        challenger: Predictions for the same images in the same order.
        confidence: The confidence level of the interval of the difference.
        groups: Images of one group are not independent; None if all images are.

    Raises:
        ValueError: The predictions are for different labelled images, or empty.
    """
    baseline, challenger = align_classes(baseline, challenger)
    before, after = compute_metric(metric, baseline), compute_metric(metric, challenger)
    tail = (1 - confidence) / 2
    events = _sum_events(metric, baseline, challenger, groups, tail)
    only_baseline = int((baseline.right & ~challenger.right).sum())
    only_challenger = int((challenger.right & ~baseline.right).sum())
    return PairedComparison(
        metric=metric,
        num_images=len(baseline),
        num_groups=None if groups is None else len(np.unique(groups)),
        baseline=before,
        challenger=after,
        difference=before - after if lower_is_better(metric) else after - before,
        low=events.limit_below(confidence),
        high=-_sum_events(metric, challenger, baseline, groups, tail).limit_below(confidence),
        confidence=confidence,
        only_baseline_right=only_baseline,
        only_challenger_right=only_challenger,
        mcnemar_p=None if groups is not None else mcnemar_exact(only_baseline, only_challenger),
        events=events,
    )


def _sum_events(
    metric: str,
    baseline: Predictions,
    challenger: Predictions,
    groups: Groups | None,
    tail: float,
) -> EventSums:
    contributions = _CONTRIBUTIONS[metric](baseline, challenger)
    values = add_by_group(contributions.values, groups)
    gains, losses = np.maximum(values, 0), np.maximum(-values, 0)
    return EventSums(
        difference=float(values.sum()),
        gains=float(gains.sum()),
        gain_squares=float((gains**2).sum()),
        losses=float(losses.sum()),
        loss_squares=float((losses**2).sum()),
        largest_loss=average_largest(add_by_group(contributions.largest_loss, groups), tail),
    )


def _contribute_accuracy(baseline: Predictions, challenger: Predictions) -> Contributions:
    weight = np.full(len(baseline), 1 / len(baseline))
    return Contributions(weight * _compare_right(baseline, challenger), weight)


def _contribute_balanced_accuracy(baseline: Predictions, challenger: Predictions) -> Contributions:
    counts = count_classes(baseline)
    weight = 1 / (counts.num_present * counts.labelled[baseline.labels])
    return Contributions(weight * _compare_right(baseline, challenger), weight)


def _compare_right(baseline: Predictions, challenger: Predictions) -> Values:
    """Return (N,) 1 if only the challenger is right, -1 if only the baseline is, else 0."""
    return challenger.right.astype(np.float64) - baseline.right


def _contribute_macro_f1(baseline: Predictions, challenger: Predictions) -> Contributions:
    """Split the difference of each class's F1 among the images that the models predict differently.

    With right images T and the sum S of labelled and predicted images, 2 T'/S' - 2 T/S equals
    (2 (T' - T) - F1 (S' - S)) / S', which is a sum over images. An image can take away at most
    2 / S of a class of F1 = 1, on average over all its right images.
    """
    before, after = count_classes(baseline), count_classes(challenger)
    labels, num_present = baseline.labels, before.num_present
    weight = np.where(after.has_images, 1 / (num_present * np.maximum(after.total, 1)), 0.0)
    false_positive = weight * before.f1
    values = (
        2 * weight[labels] * _compare_right(baseline, challenger)
        - false_positive[challenger.predicted]
        + false_positive[baseline.predicted]
    )
    smaller_total = np.minimum(before.total, after.total)
    return Contributions(values, 2 / (num_present * smaller_total[labels]))


def _contribute_log_loss(baseline: Predictions, challenger: Predictions) -> Contributions:
    gains = compute_losses(baseline) - compute_losses(challenger)
    return Contributions(gains / len(gains), np.full(len(gains), LARGEST_LOSS / len(gains)))


_CONTRIBUTIONS = {
    ACCURACY: _contribute_accuracy,
    BALANCED_ACCURACY: _contribute_balanced_accuracy,
    MACRO_F1: _contribute_macro_f1,
    LOG_LOSS: _contribute_log_loss,
}


def _find_smallest(is_enough: Callable[[float], bool]) -> float | None:
    """Return the smallest scale that is enough, to within 1 %."""
    scale = 1.0
    while scale < _MAX_SCALE:
        if is_enough(scale):
            return scale
        scale *= 1.01
    return None


def _round_up(number: float) -> int:
    """Round up to two significant digits."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return int(math.ceil(number / unit) * unit)


def mcnemar_exact(only_first_right: int, only_second_right: int) -> float:
    """Return the two-sided p-value of the split of the disagreements if both models are equal.

    Source:
        McNemar 1947, Psychometrika 12, with the binomial distribution instead of chi squared.
    """
    from scipy.special import bdtr

    disagreements = only_first_right + only_second_right
    return min(2 * float(bdtr(min(only_first_right, only_second_right), disagreements, 0.5)), 1.0)
