"""Test sets of a baseline and its challengers, drawn from a population with known differences.

Array letters: N images, C classes, U units (images, or groups of images).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from benchmarks.promotion_gate.answers import Answers, Indices, name_classes
from trialrun.report.metrics import (
    ACCURACY,
    BALANCED_ACCURACY,
    LOG_LOSS,
    MACRO_F1,
    ClassCounts,
    compute_losses,
    lower_is_better,
)
from trialrun.report.predictions import Predictions

GROUP_CORRELATION = 0.6  # of the answers on two images of one group


@dataclass(frozen=True, slots=True)
class Pair:
    """A baseline and a challenger made of two models.

    On each image, a coin decides whose answer the challenger gives: that of the second model with
    probability `challenger_share`, else that of the first. The baseline has a coin of its own. With
    equal shares, both are exactly equally good.
    """

    first: Answers
    second: Answers
    baseline_share: float = 0.0
    challenger_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The test sets to draw: (C,) units per class, which are exact if `is_fixed`, else expected.

    A unit is a group of `group_size` images of one class, or one image.
    """

    class_sizes: Indices
    is_fixed: bool = False
    group_size: int = 1

    @property
    def class_shares(self) -> NDArray[np.float64]:
        """(C,) expected shares of the classes."""
        shares: NDArray[np.float64] = self.class_sizes / self.class_sizes.sum()
        return shares


@dataclass(frozen=True, slots=True)
class TestSet:
    """The answers of a baseline and its challengers on N images, of which some form groups."""

    baseline: Predictions
    challengers: tuple[Predictions, ...]
    groups: Indices | None


@dataclass(frozen=True, slots=True)
class _DrawnImages:
    """(N,) rows of the population; `groups` and `leads` say which image copies another's coin."""

    rows: Indices
    labels: Indices
    groups: Indices | None
    is_copy: NDArray[np.bool_]

    def toss_coins(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """Return (N,) uniform numbers, the same for the copies in a group."""
        coins: NDArray[np.float64] = generator.random(len(self.rows))
        if self.groups is not None:
            of_group = generator.random(int(self.groups[-1]) + 1)
            np.copyto(coins, of_group[self.groups], where=self.is_copy)
        return coins


def make_sizes(num_units: int, num_classes: int, num_rare: int = 0, rare_size: int = 3) -> Indices:
    """Return (C,) sizes of classes: `num_rare` of `rare_size`, the others of equal size."""
    sizes = np.zeros(num_classes, dtype=np.int64)
    sizes[:num_rare] = rare_size
    rest = num_units - int(sizes.sum())
    common = num_classes - num_rare
    sizes[num_rare:] = rest // common + (np.arange(common) < rest % common)
    return sizes


def draw_test_set(
    pair: Pair, design: Design, generator: np.random.Generator, num_challengers: int = 1
) -> TestSet:
    """Draw images with replacement and return the answers of the baseline and its challengers."""
    images = _draw_images(pair.first, design, generator)

    def answer(share: float) -> Predictions:
        is_second, rows = images.toss_coins(generator) < share, images.rows
        first, second = pair.first, pair.second
        return Predictions(
            name_classes(first.num_classes),
            images.labels,
            np.where(is_second, second.predicted[rows], first.predicted[rows]),
            np.where(is_second, second.label_probability[rows], first.label_probability[rows]),
        )

    challengers = tuple(answer(pair.challenger_share) for _ in range(num_challengers))
    return TestSet(answer(pair.baseline_share), challengers, images.groups)


def _draw_images(
    population: Answers, design: Design, generator: np.random.Generator
) -> _DrawnImages:
    sizes = design.class_sizes
    if not design.is_fixed:
        sizes = generator.multinomial(sizes.sum(), design.class_shares)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if design.group_size == 1:
        rows = _draw_rows(population, labels, generator)
        return _DrawnImages(rows, labels, None, np.zeros(len(rows), bool))
    groups = np.repeat(np.arange(len(labels)), design.group_size)
    leads = _draw_rows(population, labels, generator)[groups]
    labels = labels[groups]
    is_copy = generator.random(len(groups)) < np.sqrt(GROUP_CORRELATION)
    rows = np.where(is_copy, leads, _draw_rows(population, labels, generator))
    return _DrawnImages(rows, labels, groups, is_copy)


def _draw_rows(population: Answers, labels: Indices, generator: np.random.Generator) -> Indices:
    """Return a row of the population for each label."""
    sizes, first = population.class_sizes[labels], population.first_of_class[labels]
    return first + generator.integers(0, sizes)


def compute_difference(metric: str, pair: Pair, class_shares: NDArray[np.float64]) -> float:
    """Return the true difference of a metric; above 0 the challenger is better."""
    before, after = (
        compute_value(metric, pair, share, class_shares)
        for share in (pair.baseline_share, pair.challenger_share)
    )
    return before - after if lower_is_better(metric) else after - before


def compute_value(
    metric: str,
    pair: Pair,
    share: float,
    class_shares: NDArray[np.float64],
) -> float:
    """Return a metric's true value for a model that takes `share` of its answers from `second`."""
    if metric == LOG_LOSS:
        losses = [_compute_mean_loss(model, class_shares) for model in (pair.first, pair.second)]
        return (1 - share) * losses[0] + share * losses[1]
    first, second = (count_expected(model, class_shares) for model in (pair.first, pair.second))
    counts = ClassCounts(
        first.labelled,
        (1 - share) * first.predicted + share * second.predicted,
        (1 - share) * first.right + share * second.right,
    )
    if metric == ACCURACY:
        return float(counts.right.sum())
    return float(compute_class_values(metric, counts)[counts.has_images].mean())


def compute_class_values(metric: str, counts: ClassCounts) -> NDArray[np.float64]:
    """Return the (C,) values whose average is the metric: recall or F1."""
    return {BALANCED_ACCURACY: counts.recall, MACRO_F1: counts.f1}[metric]


def _compute_mean_loss(model: Answers, class_shares: NDArray[np.float64]) -> float:
    return float(_weight_images(model, class_shares) @ compute_losses(model.to_predictions()))


def count_expected(answers: Answers, class_shares: NDArray[np.float64]) -> ClassCounts:
    """Return the expected shares of images: labelled, predicted and both."""
    labels, weights = answers.labels, _weight_images(answers, class_shares)
    right = answers.predicted == labels
    num_classes = answers.num_classes
    return ClassCounts(
        class_shares,
        np.bincount(answers.predicted, weights, num_classes).astype(np.float64),
        np.bincount(labels, weights * right, num_classes).astype(np.float64),
    )


def _weight_images(answers: Answers, class_shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.repeat(class_shares / answers.class_sizes, answers.class_sizes)


def match_difference(
    metric: str, pair: Pair, class_shares: NDArray[np.float64], difference: float
) -> Pair:
    """Return the pair with the challenger's share that makes the true difference `difference`.

    Raises:
        ValueError: No share does.
    """

    def miss(share: float) -> float:
        candidate = replace(pair, challenger_share=share)
        return compute_difference(metric, candidate, class_shares) - difference

    return replace(pair, challenger_share=float(brentq(miss, pair.baseline_share, 1.0)))
