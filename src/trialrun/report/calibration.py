"""Calibration: whether predictions with a confidence of 0.8 are right in 80 % of the cases.

Array letters: N images, B bins.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialrun.report.intervals import Interval

_NUM_BINS = 15
_NUM_RESAMPLES = 1000
_SEED = 0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The (B,) number of images, mean confidence and accuracy by equal ranges of confidence.

    `error` is the expected calibration error, from 0 to 1: the mean distance between confidence
    and accuracy, weighted by the number of images.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """

    counts: NDArray[np.int64]
    confidence: Values
    accuracy: Values
    error: float
    interval: Interval


def measure_calibration(
    confidence: Values, right: NDArray[np.bool_], level: float = 0.95
) -> Calibration:
    """Compare the (N,) confidences of predictions with whether they are right.

    The interval holds percentiles of resampled images. Importing torchmetrics, which computes the
    same error, takes longer than the whole report.
    """
    bins = np.minimum((confidence * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    divisor = np.maximum(counts, 1)
    return Calibration(
        counts,
        np.bincount(bins, confidence, _NUM_BINS) / divisor,
        np.bincount(bins, right, _NUM_BINS) / divisor,
        _compute_error(bins, confidence - right),
        _resample_error(bins, confidence - right, level),
    )


def _compute_error(bins: NDArray[np.int64], gaps: Values) -> float:
    """Return the error of (N,) images from their bins and their confidence minus correctness."""
    return float(np.abs(np.bincount(bins, gaps, _NUM_BINS)).sum() / len(gaps))


def _resample_error(bins: NDArray[np.int64], gaps: Values, level: float) -> Interval:
    """Return percentiles of the error of resampled images, from their (N,) bins and gaps."""
    generator = np.random.default_rng(_SEED)
    errors = []
    for _ in range(_NUM_RESAMPLES):
        rows = generator.integers(len(gaps), size=len(gaps))
        errors.append(_compute_error(bins[rows], gaps[rows]))
    low, high = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
