"""Tests of error rates: false promotions, promotions of true gains, coverage of intervals.

The models are simulated and the seeds are fixed. `benchmarks.promotion_gate` measures many more
cases, on the answers of real networks too.
"""

import numpy as np
import pytest

from benchmarks.promotion_gate.answers import (
    Answers,
    add_catastrophes,
    lower_recall,
    simulate_answers,
)
from benchmarks.promotion_gate.cases import (
    BETTER,
    MARGIN,
    NOT_WORSE,
    NUM_ATTEMPTS,
    Case,
    count_false_promotions,
)
from benchmarks.promotion_gate.coverage import Setting, measure_coverage
from benchmarks.promotion_gate.pairs import Design, Pair, make_sizes
from benchmarks.promotion_gate.power import Gain, count_promotions
from benchmarks.promotion_gate.reuse import run_ratchet
from trialrun.config.promote import METRICS

NUM_CLASSES = 10
LARGEST_SHARE = 0.05  # of false promotions; the nominal share is 0.025
SMALLEST_POWER = 0.85
SMALLEST_COVERAGE = 0.93


def simulate(
    num_models: int = 2, signal: float = 2.6, num_classes: int = NUM_CLASSES
) -> list[Answers]:
    """Return answers of correlated models with about 83 % accuracy."""
    return simulate_answers(
        num_models,
        num_classes=num_classes,
        signal=signal,
        scale=2,
        correlation=0.8,
        seed=1,
        num_images=20_000,
    )


@pytest.fixture(scope="module")
def models() -> list[Answers]:
    """Two models of the same kind."""
    return simulate()


def make_equal_case(
    models: list[Answers], num_units: int, *, group_size: int = 1, attempts: int = 1
) -> Case:
    """Return challengers that are exactly as good as the baseline."""
    sizes = make_sizes(num_units, NUM_CLASSES)
    return Case(
        requirement=BETTER,
        models="equal",
        pair=Pair(models[0], models[1], 0.5, 0.5),
        design=Design(class_sizes=sizes, group_size=group_size),
        bound=0.0,
        attempts=attempts,
    )


def make_worse_case(pair: Pair, sizes: list[int]) -> Case:
    """Return a challenger that is worse by the margin, with these numbers of images per class."""
    return Case(
        requirement=NOT_WORSE,
        models="worse",
        pair=pair,
        design=Design(class_sizes=np.array(sizes), is_fixed=True),
        bound=-MARGIN,
        is_matched=True,
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("num_images", [2, 5, 20, 200, 2000])
def test_equal_model_is_rarely_better(models: list[Answers], metric: str, num_images: int) -> None:
    """An equally good challenger passes `better` on at most 5 % of the test sets."""
    case = make_equal_case(models, num_images)
    assert count_false_promotions(case, metric, 150).value <= LARGEST_SHARE


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("num_images", [10, 50, 300])
def test_unseen_errors_are_allowed_for(models: list[Answers], metric: str, num_images: int) -> None:
    """A challenger with rare new errors, worth 1 point, rarely passes `not-worse`.

    Most of these test sets contain none of the errors.
    """
    worse = models[0]
    for label in range(NUM_CLASSES):
        worse = lower_recall(worse, label, 0.0, seed=label)
    sizes = make_sizes(num_images, NUM_CLASSES).tolist()
    case = make_worse_case(Pair(models[0], worse), sizes)
    assert count_false_promotions(case, metric, 150).value <= LARGEST_SHARE


@pytest.mark.parametrize("num_images", [100, 1000])
def test_rare_catastrophes_are_allowed_for(models: list[Answers], num_images: int) -> None:
    """A challenger with a log loss of 16 nats on one image of 1,600 rarely passes `not-worse`."""
    pair = Pair(models[0], add_catastrophes(models[0], 1.0, seed=0))
    case = make_worse_case(pair, make_sizes(num_images, NUM_CLASSES).tolist())
    assert count_false_promotions(case, "log_loss", 150).value <= LARGEST_SHARE


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("rare_size", [3, 6])
def test_lost_rare_class_is_noticed(models: list[Answers], metric: str, rare_size: int) -> None:
    """A challenger that loses recall of a class of few images rarely passes `not-worse`."""
    first = lower_recall(models[0], 0, 0.6, seed=0)
    pair = Pair(first, lower_recall(first, 0, 0.0, seed=1))
    case = make_worse_case(pair, [rare_size, *[20] * 9])
    assert count_false_promotions(case, metric, 150).value <= LARGEST_SHARE


@pytest.mark.parametrize("metric", METRICS)
def test_groups_are_no_independent_images(models: list[Answers], metric: str) -> None:
    """With 100 groups of 20 similar images, an equal challenger rarely passes `better`."""
    case = make_equal_case(models, 100, group_size=20)
    assert count_false_promotions(case, metric, 100).value <= LARGEST_SHARE


@pytest.mark.slow
def test_twenty_attempts_rarely_promote_an_equal_model(models: list[Answers]) -> None:
    """Of 20 equal challengers on the same test set, any passes on at most 5 % of the sets."""
    case = make_equal_case(models, 500, attempts=NUM_ATTEMPTS)
    assert count_false_promotions(case, "accuracy", 600).value <= LARGEST_SHARE


@pytest.mark.parametrize("is_reused", [True, False])
def test_small_losses_do_not_add_up(is_reused: bool) -> None:
    """20 challengers, each 0.3 points worse than its champion, lower the accuracy by about 1 point.

    Without the comparison with the best champion, it falls by 5 to 6 points.
    """
    ends = [
        run_ratchet(seed, churn=0.005, is_reused=is_reused, has_baseline=True) for seed in range(3)
    ]
    assert min(end.accuracy for end in ends) > 0.935
    alone = run_ratchet(0, churn=0.005, is_reused=is_reused, has_baseline=False)
    assert alone.accuracy < 0.9


@pytest.mark.parametrize("metric", METRICS)
def test_true_gain_is_promoted(models: list[Answers], metric: str) -> None:
    """A gain of 3 points on 2,000 images passes `better` on at least 85 % of the test sets."""
    better = simulate(signal=2.75)[1]
    gain = Gain(models="gain", pair=Pair(models[0], better), num_images=2000, gain=0.03)
    assert 0.025 < gain.compute_difference("accuracy") < 0.035
    assert 0.1 < gain.compute_disagreement() < 0.15
    assert count_promotions(gain, metric, 100).value >= SMALLEST_POWER


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("num_classes", "num_units", "group_size"),
    [(2, 20, 1), (10, 20, 1), (10, 100, 1), (50, 20, 1), (10, 4, 5), (10, 50, 20)],
)
def test_intervals_cover_the_true_value(
    metric: str, num_classes: int, num_units: int, group_size: int
) -> None:
    """The interval of a metric covers the population's value on at least 93 % of the test sets."""
    setting = Setting(
        model="good",
        answers=simulate(1, num_classes=num_classes)[0],
        shares_name="equal",
        class_shares=np.full(num_classes, 1 / num_classes),
        num_units=num_units,
        group_size=group_size,
    )
    coverage = measure_coverage(setting, metric, 300)
    assert coverage.covered.value >= SMALLEST_COVERAGE
    assert coverage.min_width > 0
