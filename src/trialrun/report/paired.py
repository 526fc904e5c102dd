"""Two models on the same images: by how much one is better, and whether chance explains it."""

from dataclasses import dataclass

import numpy as np

from trialrun.report.bootstrap import (
    Interval,
    Resampling,
    difference_draws,
    percentile_interval,
    value_draws,
)
from trialrun.report.metrics import lower_is_better, value_of
from trialrun.report.predictions import Predictions, aligned


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


def compare(
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
    baseline, challenger = aligned(baseline, challenger)
    before, after = value_of(metric, baseline), value_of(metric, challenger)
    draws = difference_draws(metric, baseline, challenger, resampling)
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


def interval_of(
    metric: str, predictions: Predictions, resampling: Resampling | None = None
) -> Interval:
    """Where one model's metric lies: Wilson's interval for accuracy, else by bootstrap."""
    resampling = resampling or Resampling()
    if metric == "accuracy":
        return wilson(int(predictions.right.sum()), len(predictions), resampling.confidence)
    return percentile_interval(value_draws(metric, predictions, resampling), resampling.confidence)


def wilson(num_right: int, num_images: int, confidence: float) -> Interval:
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
