"""Paired comparison of two models on the same images: difference, interval and significance."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from trialrun.report.bootstrap import (
    Interval,
    Resampling,
    draw_differences,
    draw_values,
    percentile_interval,
)
from trialrun.report.metrics import compute_metric, lower_is_better
from trialrun.report.predictions import Predictions, align_classes

_MAX_IMAGES = 10_000_000  # a larger test set is not a useful suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """A challenger and a baseline; `difference` is above 0 if the challenger is better.

    `mcnemar_p` is the p-value of McNemar's test: small if the images that only one of the two got
    right are split unevenly.
    """

    metric: str
    num_images: int
    baseline: float
    challenger: float
    difference: float
    low: float
    high: float
    only_baseline_right: int
    only_challenger_right: int
    mcnemar_p: float

    def score_low(self, confidence: float) -> float:
        """Return the lower end of the score interval of `difference`.

        The interval is defined for accuracy. For another metric it reaches as far below the
        difference as that of accuracy does, because a test set that is too small for accuracy is
        too small for the other metrics.
        """
        counts = self.only_challenger_right, self.only_baseline_right, self.num_images
        gain = (self.only_challenger_right - self.only_baseline_right) / self.num_images
        return self.difference - (gain - score_lower_bound(*counts, confidence))

    def images_to_show(self, bound: float, confidence: float) -> int | None:
        """Estimate how many images with the same shares put `score_low` above `bound`.

        None if the difference is not above `bound`, or the number exceeds ten million.
        """
        if self.difference <= bound:
            return None
        allowed_width = self.difference - bound
        challenger_share = self.only_challenger_right / self.num_images
        baseline_share = self.only_baseline_right / self.num_images

        def is_enough(num_images: float) -> bool:
            counts = challenger_share * num_images, baseline_share * num_images
            low = score_lower_bound(*counts, num_images, confidence)
            return challenger_share - baseline_share - low < allowed_width

        needed = _find_smallest(is_enough)
        return None if needed is None else _round_up(needed)


def _find_smallest(is_enough: Callable[[float], bool]) -> float | None:
    """Return the smallest number of images that is enough, to within 1 %."""
    number = 1.0
    while number < _MAX_IMAGES:
        if is_enough(number):
            return number
        number *= 1.01
    return None


def _round_up(number: float) -> int:
    """Round up to two significant digits."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return int(math.ceil(number / unit) * unit)


def compare_paired(
    metric: str,
    baseline: Predictions,
    challenger: Predictions,
    resampling: Resampling | None = None,
) -> PairedComparison:
    """Compare the challenger with the baseline on the same images.

    Raises:
        ValueError: The predictions are for different labelled images, or empty.
    """
    resampling = resampling or Resampling()
    baseline, challenger = align_classes(baseline, challenger)
    before, after = compute_metric(metric, baseline), compute_metric(metric, challenger)
    draws = draw_differences(metric, baseline, challenger, resampling)
    interval = percentile_interval(draws, resampling.confidence)
    only_baseline = int((baseline.right & ~challenger.right).sum())
    only_challenger = int((challenger.right & ~baseline.right).sum())
    return PairedComparison(
        metric=metric,
        num_images=len(baseline),
        baseline=before,
        challenger=after,
        difference=before - after if lower_is_better(metric) else after - before,
        low=interval.low,
        high=interval.high,
        only_baseline_right=only_baseline,
        only_challenger_right=only_challenger,
        mcnemar_p=mcnemar_exact(only_baseline, only_challenger),
    )


def mcnemar_exact(only_first_right: int, only_second_right: int) -> float:
    """Return the two-sided p-value of the split of the disagreements if both models are equal.

    Source:
        McNemar 1947, Psychometrika 12, with the binomial distribution instead of chi squared.
    """
    from scipy.stats import binomtest

    disagreements = only_first_right + only_second_right
    if disagreements == 0:
        return 1.0
    return float(binomtest(only_first_right, disagreements, p=0.5).pvalue)


def score_lower_bound(
    only_first_right: float, only_second_right: float, num_images: float, confidence: float
) -> float:
    """Return the lower end of the score interval of a paired difference of two accuracies.

    It is the lowest difference (first minus second) that the counts do not reject. Unlike a
    bootstrap interval it is wide if the models disagree on few images: without any disagreement on
    N images it is -z^2 / (N + z^2).

    Source:
        Tango 1998, Statistics in Medicine 17, 891-908, section 3.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    estimate = (only_first_right - only_second_right) / num_images
    if estimate <= -1:
        return -1.0

    def excess(difference: float) -> float:
        if difference == -1.0:
            return 1.0  # at both ends the sign is known, but rounding may flip it
        if difference == estimate:
            return -1.0
        distance = only_first_right - only_second_right - num_images * difference
        error = _standard_error(only_first_right, only_second_right, num_images, difference)
        return distance - z * error

    return float(brentq(excess, -1.0, estimate))


def _standard_error(first: float, second: float, num_images: float, difference: float) -> float:
    """Return the standard error of `first - second` if the true difference is `difference`.

    It needs the share of images that only the second model gets right. The maximum likelihood
    estimate of that share is the larger root of a quadratic equation.
    """
    a = 2 * num_images
    b = -first - second + (2 * num_images - first + second) * difference
    c = -second * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = num_images * (2 * share + difference * (1 - difference))
    return math.sqrt(max(variance, 0.0))


def compute_interval(
    metric: str, predictions: Predictions, resampling: Resampling | None = None
) -> Interval:
    """Return the interval of one model's metric: Wilson's for accuracy, else a bootstrap's."""
    resampling = resampling or Resampling()
    if metric == "accuracy":
        return wilson_interval(
            int(predictions.right.sum()), len(predictions), resampling.confidence
        )
    return percentile_interval(draw_values(metric, predictions, resampling), resampling.confidence)


def wilson_interval(num_right: int, num_images: int, confidence: float) -> Interval:
    """Return the interval of a share, which is accurate near 0 and 1 and for few images.

    Source:
        Wilson 1927, Journal of the American Statistical Association 22.
    """
    from scipy.stats import binomtest

    interval = binomtest(num_right, num_images).proportion_ci(confidence, method="wilson")
    return Interval(float(interval.low), float(interval.high))
