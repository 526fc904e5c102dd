"""Bootstrap draws: how a figure would scatter, were the test images drawn again.

Drawing N images with replacement is drawing the counts of cells of like images from a multinomial
distribution, so that 10,000 draws cost by the number of cells and not of images.
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

_CHUNK_NUMBERS = 2_000_000  # counts, or images drawn, at a time by a thread: some 60 MB
_MAX_THREADS = 8
_MAX_CHUNK_DRAWS = 1000  # the same on every machine: the draws must not depend on its cores
_SMALL_CELL = 10  # images; see _Multinomial
_EXTREMES = 64  # values at either end that stay cells of their own
_MIDDLE_CELLS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How intervals are drawn: how many draws, how much of them an interval holds, from where."""

    draws: int = 10_000
    confidence: float = 0.95
    random_seed: int = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a figure lies in the middle `confidence` of the draws."""

    low: float
    high: float


def draw_differences(
    metric: str, baseline: Predictions, challenger: Predictions, resampling: Resampling
) -> Values:
    """(D,) by how much the challenger is better, each draw giving both the same images."""
    if metric == LOG_LOSS:
        return _draw_means(compute_losses(baseline) - compute_losses(challenger), resampling)
    counted = COUNT_METRICS[metric]
    cells = count_cells(counted, [baseline, challenger])

    def difference(counts: Counts) -> Values:
        first, second = (
            counted.statistic(counts, cells.labels, answers, cells.num_classes)
            for answers in cells.predicted
        )
        return second - first

    return _draw_statistics(cells.counts, difference, resampling)


def draw_values(metric: str, predictions: Predictions, resampling: Resampling) -> Values:
    """(D,) values of one model's metric."""
    if metric == LOG_LOSS:
        return _draw_means(compute_losses(predictions), resampling)
    counted = COUNT_METRICS[metric]
    cells = count_cells(counted, [predictions])
    return _draw_statistics(
        cells.counts,
        lambda counts: counted.statistic(
            counts, cells.labels, cells.predicted[0], cells.num_classes
        ),
        resampling,
    )


def percentile_interval(draws: Values, confidence: float) -> Interval:
    """The middle `confidence` of the draws.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _draw_statistics(
    counts: Counts, statistic: Callable[[Counts], Values], resampling: Resampling
) -> Values:
    """The statistic of each of D draws of the cells' counts."""
    drawn_counts = _Multinomial(counts)
    chunk = min(max(_CHUNK_NUMBERS // drawn_counts.numbers_a_draw, 1), _MAX_CHUNK_DRAWS)
    lengths = [min(chunk, resampling.draws - done) for done in range(0, resampling.draws, chunk)]
    seeds = np.random.SeedSequence(abs(resampling.random_seed)).spawn(len(lengths))

    def part(length: int, seed: np.random.SeedSequence) -> Values:
        return statistic(drawn_counts(np.random.default_rng(seed), length))

    threads = min(count_threads(), _MAX_THREADS)
    with ThreadPoolExecutor(threads) as pool:  # numpy draws without holding Python's lock
        return np.concatenate(list(pool.map(part, lengths, seeds)))


class _Multinomial:
    """Draws the counts of cells, (K,) as they were found, as drawing images with replacement does.

    A draw of a cell's count costs about as much as drawing ten images: what lies in small cells is
    drawn image by image, and cells are counted afterwards.
    """

    def __init__(self, counts: Counts) -> None:
        self._num_cells = len(counts)
        self._num_images = int(counts.sum())
        self._large = np.flatnonzero(counts >= _SMALL_CELL)
        self._small = np.flatnonzero(counts < _SMALL_CELL)
        self._cell_of_image = np.repeat(np.arange(len(self._small)), counts[self._small])
        in_small = len(self._cell_of_image)
        self._shares = np.array([*counts[self._large], in_small]) / self._num_images
        self.numbers_a_draw = max(self._num_cells, in_small)

    def __call__(self, generator: np.random.Generator, num_draws: int) -> Counts:
        """(num_draws, K) counts, each row summing to the number of images."""
        drawn = generator.multinomial(self._num_images, self._shares, size=num_draws)
        counts = np.empty((num_draws, self._num_cells), dtype=np.int64)
        counts[:, self._large] = drawn[:, :-1]
        if len(self._small):
            counts[:, self._small] = self._counts_of_small(generator, drawn[:, -1])
        return counts

    def _counts_of_small(self, generator: np.random.Generator, num_images: Counts) -> Counts:
        num_draws, width = len(num_images), len(self._small)
        images = generator.integers(0, len(self._cell_of_image), int(num_images.sum()))
        rows = np.repeat(np.arange(0, num_draws * width, width), num_images)
        cells = rows + self._cell_of_image[images]
        return np.bincount(cells, minlength=num_draws * width).reshape(num_draws, width)


def _draw_means(values: Values, resampling: Resampling) -> Values:
    """(D,) means of draws from (N,) values.

    The values are sorted into cells of neighbours. Within a cell, what `k` draws sum to scatters
    by `k` times the cell's variance: drawn as one normal number a draw, since the cells are narrow
    (the extreme values are cells of their own).
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
        np.asarray(counts, dtype=np.int64), lambda drawn: drawn @ columns, resampling
    )
    drawn: Values = (sums[:, 0] + noise * np.sqrt(sums[:, 1])) / len(values)
    return drawn


def _cell_starts(size: int) -> NDArray[np.intp]:
    if size <= 2 * _EXTREMES + _MIDDLE_CELLS:
        return np.arange(size)
    middle = np.linspace(_EXTREMES, size - _EXTREMES, _MIDDLE_CELLS, endpoint=False).astype(np.intp)
    ends = np.arange(_EXTREMES), np.arange(size - _EXTREMES, size)
    return np.concatenate([ends[0], middle, ends[1]])
