"""Tests of confidence intervals of one model's metrics."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.report.models import make_pair, make_predictions, select_images
from trialrun.config.promote import METRICS
from trialrun.report.intervals import compute_interval
from trialrun.report.metrics import LARGEST_LOSS, compute_losses, compute_metric
from trialrun.report.predictions import Predictions

Z = 1.959964


@pytest.mark.parametrize("metric", METRICS)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), num_images=st.integers(1, 60))
def test_interval_contains_the_metric(metric: str, seed: int, num_images: int) -> None:
    """The interval contains the measured value, has a width, and stays in the metric's range."""
    model, _ = make_pair(seed, num_images)
    interval = compute_interval(metric, model)
    assert interval.low <= compute_metric(metric, model) <= interval.high
    assert interval.low < interval.high
    assert interval.low >= 0
    assert interval.high <= (LARGEST_LOSS if metric == "log_loss" else 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("is_right", [True, False])
def test_interval_of_a_faultless_model_has_a_width(metric: str, is_right: bool) -> None:
    """20 images of which all, or none, are right prove neither 100 % nor 0 %."""
    labels = np.arange(20) % 10
    predicted = labels if is_right else (labels + 1) % 10
    interval = compute_interval(metric, make_predictions(labels, predicted, probability=1.0))
    assert interval.high - interval.low > 0.05


@given(st.integers(1, 500), st.data())
def test_accuracy_has_the_exact_binomial_interval(num_images: int, data: st.DataObject) -> None:
    """The interval of accuracy is scipy's Clopper-Pearson interval."""
    num_right = data.draw(st.integers(0, num_images))
    labels = np.zeros(num_images, dtype=np.int64)
    predicted = (np.arange(num_images) >= num_right).astype(np.int64)
    interval = compute_interval("accuracy", make_predictions(labels, predicted))
    expected = binomtest(num_right, num_images).proportion_ci(0.95, method="exact")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_balanced_accuracy_of_equal_classes_is_like_accuracy() -> None:
    """Classes of equal size and equal recall make both intervals nearly equal."""
    labels = np.repeat(np.arange(10), 100)
    predicted = np.where(np.arange(1000) % 5 == 0, (labels + 1) % 10, labels)
    model = make_predictions(labels, predicted)
    balanced, plain = (compute_interval(name, model) for name in ("balanced_accuracy", "accuracy"))
    assert (balanced.low, balanced.high) == pytest.approx((plain.low, plain.high), abs=2e-3)


def test_log_loss_interval_matches_theory() -> None:
    """With many images, the width is that of the normal interval of the mean."""
    model, _ = make_pair(3, 50_000)
    interval = compute_interval("log_loss", model)
    spread = compute_losses(model).std() / np.sqrt(len(model))
    assert interval.high - interval.low == pytest.approx(2 * Z * spread, rel=0.05)


@pytest.mark.parametrize("metric", METRICS)
def test_groups_widen_the_interval(metric: str) -> None:
    """Copies of each image, grouped, are no more evidence than the images themselves."""
    model, _ = make_pair(5, 200)
    rows = np.repeat(np.arange(200), 5)
    copies = select_images(model, rows)
    single, grouped, ungrouped = (
        compute_interval(metric, model),
        compute_interval(metric, copies, groups=rows),
        compute_interval(metric, copies),
    )
    widths = [interval.high - interval.low for interval in (single, grouped, ungrouped)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    assert widths[2] < 0.6 * widths[0]


@pytest.mark.parametrize("metric", METRICS)
def test_one_group_proves_nothing(metric: str) -> None:
    """Images of one group alone leave the whole range open."""
    model, _ = make_pair(5, 40)
    interval = compute_interval(metric, model, groups=np.zeros(40, dtype=np.int64))
    assert interval.low == 0
    assert interval.high == pytest.approx(LARGEST_LOSS if metric == "log_loss" else 1)


def test_predictions_of_absent_classes_lower_macro_f1() -> None:
    """Predictions of classes without test images would be false positives in a larger test set."""
    labels = np.zeros(40, dtype=np.int64)
    predicted = np.where(np.arange(40) < 10, 1, 0)
    absent = compute_interval("macro_f1", make_predictions(labels, predicted))
    labels[:3] = 1
    present = compute_interval("macro_f1", make_predictions(labels, predicted))
    assert absent.low < present.high
    assert absent.low < 0.75


@pytest.mark.parametrize("metric", METRICS)
def test_memory_of_many_classes_is_limited(metric: str) -> None:
    """18,000 images of 2,000 classes need less than 20 MB."""
    labels = np.arange(18_000) % 2000
    model = Predictions(tuple(map(str, range(2000))), labels, labels, np.full(18_000, 0.9))
    tracemalloc.start()
    try:
        compute_interval(metric, model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6
