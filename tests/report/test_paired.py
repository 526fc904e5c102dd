"""Tests of paired comparisons: differences and their intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.report.models import make_pair, make_predictions, select_images
from trialrun.config.promote import METRICS
from trialrun.report.limits import limit_sum_above, limit_sum_below
from trialrun.report.metrics import LARGEST_LOSS, compute_losses, compute_metric, lower_is_better
from trialrun.report.paired import compare_paired, mcnemar_exact

Z = 1.959964


def improve(metric: str, before: float, after: float) -> float:
    """Return by how much a metric is better after than before."""
    return before - after if lower_is_better(metric) else after - before


@pytest.mark.parametrize("metric", METRICS)
def test_difference_is_that_of_the_metrics(metric: str) -> None:
    """The contributions of the images sum to the difference of the metric."""
    first, second = make_pair(7, 300, gain=0.03)
    found = compare_paired(metric, first, second)
    before, after = compute_metric(metric, first), compute_metric(metric, second)
    assert (found.baseline, found.challenger) == (before, after)
    assert found.difference == pytest.approx(improve(metric, before, after))
    assert found.events is not None
    assert found.events.difference == pytest.approx(found.difference, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), num_images=st.integers(1, 60))
def test_interval_encloses_the_difference(metric: str, seed: int, num_images: int) -> None:
    """The interval contains the difference, and its width is never 0."""
    found = compare_paired(metric, *make_pair(seed, num_images))
    assert found.low < found.difference < found.high


@pytest.mark.parametrize("metric", METRICS)
def test_exchanged_models_mirror_the_interval(metric: str) -> None:
    """The interval of the exchanged models is the negative one."""
    first, second = make_pair(3, 200, gain=0.02)
    found, mirrored = compare_paired(metric, first, second), compare_paired(metric, second, first)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("metric", METRICS)
def test_higher_confidence_widens_the_interval(metric: str) -> None:
    """An interval of 99.9 % encloses that of 95 %."""
    models = make_pair(4, 200)
    narrow, wide = (compare_paired(metric, *models, confidence=level) for level in (0.95, 0.999))
    assert wide.low < narrow.low
    assert narrow.high < wide.high


def test_interval_of_accuracy_follows_from_its_counts() -> None:
    """9 images won and 4 lost of 100: the limits of both counts, combined by MOVER."""
    labels = np.zeros(100, dtype=np.int64)
    first, second = labels.copy(), labels.copy()
    first[:9], second[9:13] = 1, 1
    found = compare_paired(
        "accuracy", make_predictions(labels, first), make_predictions(labels, second)
    )
    won, lost = 9 - limit_sum_below(9, 9, 0.025), limit_sum_above(4, 4, 1, 0.025) - 4
    assert found.low == pytest.approx(0.05 - np.hypot(won, lost) / 100)
    assert (found.only_challenger_right, found.only_baseline_right) == (9, 4)


@pytest.mark.parametrize("num_images", [1, 20, 1000])
def test_equal_answers_allow_for_unseen_losses(num_images: int) -> None:
    """Without disagreement, the limit is that of 0 events of the largest loss: 3.69 images."""
    labels = np.arange(num_images) % 10
    model = make_predictions(labels, labels)
    found = compare_paired("accuracy", model, model)
    assert found.difference == 0
    assert found.low == pytest.approx(-3.6889 / num_images, rel=1e-4)
    losses = compare_paired("log_loss", model, model)
    assert losses.low == pytest.approx(-3.6889 * LARGEST_LOSS / num_images, rel=1e-4)


@pytest.mark.parametrize("rare_size", [1, 3, 20])
def test_rare_class_widens_the_interval(rare_size: int) -> None:
    """An unseen loss has the mean weight of the 4 images that weigh most in the macro average.

    A test set misses an event of which 3.69 are expected with a probability of 2.5 %.
    """
    labels = np.repeat(np.arange(10), [rare_size, *[100] * 9])
    model = make_predictions(labels, labels)
    found = compare_paired("balanced_accuracy", model, model)
    num_rare = min(rare_size, 4)
    weight = (num_rare / (10 * rare_size) + (4 - num_rare) / 1000) / 4
    assert found.low == pytest.approx(-3.6889 * weight, rel=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_interval_of_many_images_matches_that_of_resampling(metric: str) -> None:
    """With many images, the width is that of the distribution over resampled images."""
    first, second = make_pair(7, 30_000, gain=0.02)
    found = compare_paired(metric, first, second)
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(200):
        rows = generator.integers(0, len(first), len(first))
        values = [compute_metric(metric, select_images(model, rows)) for model in (first, second)]
        differences.append(improve(metric, *values))
    plain = 2 * Z * np.std(differences)
    assert found.high - found.low == pytest.approx(plain, rel=0.25)


def test_log_loss_interval_matches_theory() -> None:
    """With many images, the width is that of the normal interval of the mean difference."""
    first, second = make_pair(3, 50_000)
    found = compare_paired("log_loss", first, second)
    spread = (compute_losses(first) - compute_losses(second)).std() / np.sqrt(len(first))
    assert found.high - found.low == pytest.approx(2 * Z * spread, rel=0.1)


@pytest.mark.parametrize("metric", METRICS)
def test_copies_in_groups_change_nothing(metric: str) -> None:
    """Copies of each image, grouped, give the interval of the images without copies."""
    first, second = make_pair(5, 200, gain=0.02)
    rows = np.repeat(np.arange(200), 5)
    copies = compare_paired(
        metric, select_images(first, rows), select_images(second, rows), groups=rows
    )
    single = compare_paired(metric, first, second)
    assert (copies.low, copies.high) == pytest.approx((single.low, single.high))
    assert copies.num_groups == 200


def test_groups_have_no_mcnemar_test() -> None:
    """The p-value assumes independent images, so it is left out with groups."""
    first, second = make_pair(5, 40)
    assert compare_paired("accuracy", first, second).mcnemar_p is not None
    grouped = compare_paired("accuracy", first, second, groups=np.arange(40) // 4)
    assert grouped.mcnemar_p is None


def test_images_to_show_puts_the_limit_above_the_bound() -> None:
    """A test set as large as estimated, with the same shares, excludes the bound."""
    first, second = make_pair(12, 200, gain=0.03)
    found = compare_paired("accuracy", first, second)
    assert found.difference > 0 > found.low
    needed = found.images_to_show(0.0)
    assert needed is not None
    copies = np.tile(np.arange(200), -(-needed // 200))
    larger = compare_paired("accuracy", select_images(first, copies), select_images(second, copies))
    assert larger.low > 0
    assert needed < 100 * 200


def test_no_number_of_images_shows_a_loss_to_be_a_gain() -> None:
    """A difference that is not above the bound needs no number of images."""
    first, second = make_pair(12, 200, gain=0.03)
    assert compare_paired("accuracy", second, first).images_to_show(0.0) is None


def test_json_has_no_events() -> None:
    """The plain values are numbers, names and None."""
    values = compare_paired("accuracy", *make_pair(1, 30)).to_json()
    assert "events" not in values
    assert all(isinstance(value, int | float | str | None) for value in values.values())


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    """The p-value is that of scipy's two-sided binomial test, 1 without disagreement."""
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected)
