"""Two models on the same images: by how much one is better, and whether chance explains it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trialrun.report.bootstrap import (
    Interval,
    Resampling,
    draw_differences,
    draw_values,
    percentile_interval,
)
from trialrun.report.metrics import compute_metric, lower_is_better
from trialrun.report.predictions import Predictions, align_classes

_HALVINGS = 60  # of an interval of length 1: below a double's precision
_MOST_IMAGES = 10_000_000  # of which it is sensible to tell that they are needed


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """A challenger beside a baseline; `difference` is above 0 where the challenger is better.

    `mcnemar_p` asks whether the images that only one of them got right fall evenly.
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
        """How low `difference` may truly be, told by the images that only one of them got right.

        For accuracy the lower end of its score interval. Other metrics have none: theirs reaches
        as far below what was found as accuracy's does, so that a set too small to tell anything of
        accuracy tells nothing of them.
        """
        counts = self.only_challenger_right, self.only_baseline_right, self.num_images
        found = (self.only_challenger_right - self.only_baseline_right) / self.num_images
        return self.difference - (found - score_lower_bound(*counts, confidence))

    def images_to_show(self, bound: float, confidence: float) -> int | None:
        """About how many images would put `score_low` above `bound`, were they answered alike.

        None where no number would, the difference that was found not being above the bound, or
        none that is sensible.
        """
        if self.difference <= bound:
            return None
        reach = self.difference - bound
        shares = [
            count / self.num_images
            for count in (self.only_challenger_right, self.only_baseline_right)
        ]

        def is_shown(num_images: float) -> bool:
            counts = [share * num_images for share in shares]
            low = score_lower_bound(counts[0], counts[1], num_images, confidence)
            return shares[0] - shares[1] - low < reach

        needed = _find_smallest(is_shown)
        return None if needed is None else _round_up(needed)


def _find_smallest(is_enough: Callable[[float], bool]) -> float | None:
    """The smallest number of images that is enough, to a hundredth of itself."""
    number = 1.0
    while number < _MOST_IMAGES:
        if is_enough(number):
            return number
        number *= 1.01
    return None


def _round_up(number: float) -> int:
    """To two significant digits."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return int(math.ceil(number / unit) * unit)


def compare_paired(
    metric: str,
    baseline: Predictions,
    challenger: Predictions,
    resampling: Resampling | None = None,
) -> PairedComparison:
    """The challenger judged against the baseline on the images both answered.

    Raises:
        ValueError: They did not answer the same labelled images, or there are none.
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
    """How likely so uneven a split of the disagreements is, were both equally good (two-sided).

    Source:
        McNemar 1947, Psychometrika 12, with the binomial distribution instead of chi squared.
    """
    from scipy.special import bdtr

    disagreements = only_first_right + only_second_right
    if disagreements == 0:
        return 1.0
    one_sided = bdtr(min(only_first_right, only_second_right), disagreements, 0.5)
    return float(min(1.0, 2 * one_sided))


def score_lower_bound(
    only_first_right: float, only_second_right: float, num_images: float, confidence: float
) -> float:
    """How low the first's share of right answers less the second's may truly be, paired.

    The score interval: the lowest difference that the counts do not speak against. Unlike a
    bootstrap's it is wide where few images differ: none of N leaves it at -z^2 / (N + z^2).

    Source:
        Tango 1998, Statistics in Medicine 17, 891-908; `_score` is the statistic of its section 3.
    """
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    low, high = -1.0, (only_first_right - only_second_right) / num_images
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _score_statistic(only_first_right, only_second_right, num_images, middle) < z:
            high = middle
        else:
            low = middle
    return high


def _score_statistic(first: float, second: float, num_images: float, difference: float) -> float:
    """By how many standard errors the counts lie above a true `difference`."""
    # The share of images that only the second gets right, most likely under `difference`: the
    # larger root of a quadratic equation.
    a = 2 * num_images
    b = -first - second + (2 * num_images - first + second) * difference
    c = -second * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = num_images * (2 * share + difference * (1 - difference))
    distance = first - second - num_images * difference
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def compute_interval(
    metric: str, predictions: Predictions, resampling: Resampling | None = None
) -> Interval:
    """Where one model's metric lies: Wilson's interval for accuracy, else by bootstrap."""
    resampling = resampling or Resampling()
    if metric == "accuracy":
        return wilson_interval(
            int(predictions.right.sum()), len(predictions), resampling.confidence
        )
    return percentile_interval(draw_values(metric, predictions, resampling), resampling.confidence)


def wilson_interval(num_right: int, num_images: int, confidence: float) -> Interval:
    """The interval of a share, sound near 0 and 1 and for few images.

    Source:
        Wilson 1927, Journal of the American Statistical Association 22.
    """
    from scipy.special import ndtri

    z = float(ndtri(0.5 + confidence / 2))
    share = num_right / num_images
    scale = 1 + z**2 / num_images
    centre = (share + z**2 / (2 * num_images)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / num_images + (z / (2 * num_images)) ** 2)
    return Interval(max(float(centre - half), 0.0), min(float(centre + half), 1.0))
