"""Bootstrap of metrics: the distribution of a metric over resampled test images.

Images that are equal for a metric form a cell. Drawing N images with replacement equals drawing the
counts of the cells from a multinomial distribution, so the cost of 10,000 draws depends on the
number of cells and not on the number of images.
Array letters: N images, K cells, D draws.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialrun.images.scanning.thread_pool import count_threads
from trialrun.report.metrics import (
    COUNT_METRICS,
    LOG_LOSS,
    Counts,
    Values,
    compute_losses,
    count_cells,
)
from trialrun.report.predictions import Predictions

_CHUNK_NUMBERS = 2_000_000  # counts or drawn images per thread at a time, about 60 MB
_MAX_THREADS = 8
_MAX_CHUNK_DRAWS = 1000  # a constant, so that the draws do not depend on the number of cores
_SMALL_CELL = 10  # images; see _Multinomial
_EXTREMES = 64  # values at each end that are not merged with others
_MIDDLE_CELLS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """The bootstrap settings: the number of draws, the share in an interval, and the seed."""

    draws: int = 10_000
    confidence: float = 0.95
    random_seed: int = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a metric or difference."""

    low: float
    high: float


def draw_differences(
    metric: str, baseline: Predictions, challenger: Predictions, resampling: Resampling
) -> Values:
    """Return (D,) differences of the metric; above 0 the challenger is better.

    In each draw both models are measured on the same images.
    """
    if metric == LOG_LOSS:
        return _draw_means(compute_losses(baseline) - compute_losses(challenger), resampling)
    count_metric = COUNT_METRICS[metric]
    cells = count_cells(count_metric, [baseline, challenger])

    def compute_difference(counts: Counts) -> Values:
        first, second = (
            count_metric.statistic(counts, cells.labels, predicted, cells.num_classes)
            for predicted in cells.predicted
        )
        return second - first

    return _draw_statistics(cells.counts, compute_difference, resampling)


def draw_values(metric: str, predictions: Predictions, resampling: Resampling) -> Values:
    """Return (D,) values of the metric of one model."""
    if metric == LOG_LOSS:
        return _draw_means(compute_losses(predictions), resampling)
    count_metric = COUNT_METRICS[metric]
    cells = count_cells(count_metric, [predictions])
    return _draw_statistics(
        cells.counts,
        lambda counts: count_metric.statistic(
            counts, cells.labels, cells.predicted[0], cells.num_classes
        ),
        resampling,
    )


def percentile_interval(draws: Values, confidence: float) -> Interval:
    """Return the interval that holds the middle `confidence` of the draws.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _draw_statistics(
    counts: Counts, statistic: Callable[[Counts], Values], resampling: Resampling
) -> Values:
    """Return (D,) values of `statistic` on draws of the (K,) counts."""
    multinomial = _Multinomial(counts)
    chunk = min(max(_CHUNK_NUMBERS // multinomial.numbers_per_draw, 1), _MAX_CHUNK_DRAWS)
    lengths = [min(chunk, resampling.draws - done) for done in range(0, resampling.draws, chunk)]
    seeds = np.random.SeedSequence(abs(resampling.random_seed)).spawn(len(lengths))

    def draw_chunk(length: int, seed: np.random.SeedSequence) -> Values:
        return statistic(multinomial.draw(np.random.default_rng(seed), length))

    threads = min(count_threads(), _MAX_THREADS)
    with ThreadPoolExecutor(threads) as pool:  # numpy releases the GIL while it draws
        return np.concatenate(list(pool.map(draw_chunk, lengths, seeds)))


class _Multinomial:
    """Draws counts of cells from (K,) observed counts, as if images were drawn with replacement.

    Drawing the count of one cell costs about as much as drawing ten images. The images of small
    cells are therefore drawn one by one and count_metric afterwards.
    """

    def __init__(self, counts: Counts) -> None:
        self._num_cells = len(counts)
        self._num_images = int(counts.sum())
        self._large = np.flatnonzero(counts >= _SMALL_CELL)
        self._small = np.flatnonzero(counts < _SMALL_CELL)
        self._cell_of_image = np.repeat(np.arange(len(self._small)), counts[self._small])
        num_in_small = len(self._cell_of_image)
        self._shares = np.array([*counts[self._large], num_in_small]) / self._num_images
        self.numbers_per_draw = max(self._num_cells, num_in_small)

    def draw(self, generator: np.random.Generator, num_draws: int) -> Counts:
        """Return (num_draws, K) counts; each row sums to the number of images."""
        drawn = generator.multinomial(self._num_images, self._shares, size=num_draws)
        counts = np.empty((num_draws, self._num_cells), dtype=np.int64)
        counts[:, self._large] = drawn[:, :-1]
        if len(self._small):
            counts[:, self._small] = self._draw_small(generator, drawn[:, -1])
        return counts

    def _draw_small(self, generator: np.random.Generator, num_images: Counts) -> Counts:
        num_draws, width = len(num_images), len(self._small)
        images = generator.integers(0, len(self._cell_of_image), int(num_images.sum()))
        rows = np.repeat(np.arange(0, num_draws * width, width), num_images)
        cells = rows + self._cell_of_image[images]
        return np.bincount(cells, minlength=num_draws * width).reshape(num_draws, width)


def _draw_means(values: Values, resampling: Resampling) -> Values:
    """Return (D,) means of draws from (N,) values.

    The sorted values are grouped into cells of neighbours. The sum of `k` draws from a cell has `k`
    times the variance of the cell. This spread is added as one normal number per draw, which is
    accurate because the cells are narrow: each extreme value has its own cell.
    """
    ordered = np.sort(values)
    starts = _cell_starts(len(ordered))
    counts = np.diff([*starts, len(ordered)])
    means = np.add.reduceat(ordered, starts) / counts
    variances = np.add.reduceat((ordered - np.repeat(means, counts)) ** 2, starts) / counts
    noise = np.random.default_rng([abs(resampling.random_seed), 1]).standard_normal(
        resampling.draws
    )
    columns = np.stack([means, variances], axis=1)
    sums = _draw_statistics(
        np.asarray(counts, dtype=np.int64), lambda drawn_counts: drawn_counts @ columns, resampling
    )
    means_of_draws: Values = (sums[:, 0] + noise * np.sqrt(sums[:, 1])) / len(values)
    return means_of_draws


def _cell_starts(size: int) -> NDArray[np.intp]:
    if size <= 2 * _EXTREMES + _MIDDLE_CELLS:
        return np.arange(size)
    middle = np.linspace(_EXTREMES, size - _EXTREMES, _MIDDLE_CELLS, endpoint=False).astype(np.intp)
    return np.concatenate([np.arange(_EXTREMES), middle, np.arange(size - _EXTREMES, size)])
