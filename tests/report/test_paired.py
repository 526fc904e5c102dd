"""Tests of paired comparisons: differences, intervals and their error rates."""

import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trialrun.config.promote import METRICS, PromoteConfig
from trialrun.registry.gates import Evidence, evaluate_gates
from trialrun.report.bootstrap import Resampling, percentile_interval
from trialrun.report.metrics import compute_losses, compute_metric, compute_metrics
from trialrun.report.paired import (
    compare_paired,
    compute_interval,
    mcnemar_exact,
    score_lower_bound,
    wilson_interval,
)
from trialrun.report.predictions import Predictions, align_classes, build_predictions

FEW_DRAWS = Resampling(draws=2000)


def random_predictions(
    generator: np.random.Generator, labels: NDArray[np.int64], chance: NDArray[np.float64]
) -> Predictions:
    """Return predictions that are right on image n with probability `chance[n]`, else random."""
    num_classes = 10
    right = generator.random(len(labels)) < chance
    wrong = (labels + generator.integers(1, num_classes, len(labels))) % num_classes
    probability = np.where(right, 0.5 + 0.5 * chance, 0.4 * chance)
    return Predictions(
        tuple("0123456789"), labels, np.where(right, labels, wrong), probability + 1e-3
    )


def pair(seed: int, num_images: int, gain: float = 0.0) -> tuple[Predictions, Predictions]:
    """Return two models with independent errors: most images are easy, some are hard."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, num_images)
    easy = generator.random(num_images) < 0.8
    chance = np.where(easy, 0.99, 0.5)
    better = np.where(easy, 0.99, 0.5 + gain / 0.2)
    return (
        random_predictions(generator, labels, chance),
        random_predictions(generator, labels, better),
    )


def is_promoted(baseline: Predictions, challenger: Predictions, require: str = "better") -> bool:
    """Whether the challenger passes `require`."""
    comparison = compare_paired("accuracy", baseline, challenger, FEW_DRAWS)
    evidence = Evidence(metrics=compute_metrics(challenger), size_mb=1, comparison=comparison)
    return evaluate_gates(PromoteConfig(require=require), evidence).passed


@pytest.mark.parametrize("num_images", [300, 2000])
def test_retrained_model_is_rarely_promoted(num_images: int) -> None:
    """Of 200 equally good pairs, at most 5% pass `better`."""
    count = sum(is_promoted(*pair(seed, num_images)) for seed in range(200))
    assert count <= 10


def test_true_gain_is_promoted() -> None:
    """A gain of 3 points on 2,000 images passes `better` in at least 90% of 200 pairs."""
    count = sum(is_promoted(*pair(1000 + seed, 2000, gain=0.03)) for seed in range(200))
    assert count >= 180


@pytest.mark.parametrize("num_images", [20, 50, 300, 2000])
def test_worse_model_rarely_passes_not_worse(num_images: int) -> None:
    """Of 200 challengers that are 3 points worse, at most 5% pass a margin of 1 point."""
    pairs = (pair(2000 + seed, num_images, gain=-0.03) for seed in range(200))
    assert sum(is_promoted(*models, require="not-worse") for models in pairs) <= 10


def test_score_interval_matches_the_literature() -> None:
    """1 against 7 of 21 at 95%: -0.517 to -0.026.

    Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33, on airway reactivity before and
    after a transplantation.
    """
    assert score_lower_bound(1, 7, 21, 0.95) == pytest.approx(-0.517, abs=5e-4)
    assert -score_lower_bound(7, 1, 21, 0.95) == pytest.approx(-0.026, abs=5e-4)


@given(st.integers(1, 5000))
def test_score_interval_without_disagreement(num_images: int) -> None:
    """The lower end is -z^2 / (N + z^2)."""
    z2 = 1.959964**2
    low = score_lower_bound(0, 0, num_images, 0.95)
    assert low == pytest.approx(-z2 / (num_images + z2), rel=1e-4)


@given(st.integers(1, 10_000_000), st.floats(0.5, 0.9999))
def test_score_interval_with_full_disagreement(num_images: int, confidence: float) -> None:
    """The lower end is (N - z^2) / (N + z^2) if only the first is right, -1 if only the second."""
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    found = score_lower_bound(num_images, 0, num_images, confidence)
    assert found == pytest.approx((num_images - z2) / (num_images + z2), abs=1e-9)
    assert score_lower_bound(0, num_images, num_images, confidence) == -1


@pytest.mark.parametrize("metric", METRICS)
def test_intervals_equal_those_of_drawing_images(metric: str) -> None:
    """Drawing counts of cells gives the same interval as drawing images."""
    first, second = pair(7, 800, gain=0.02)
    found = compare_paired(metric, first, second)
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(1500):
        rows = generator.integers(0, len(first), len(first))
        values = [
            compute_metric(
                metric,
                Predictions(
                    model.classes,
                    model.labels[rows],
                    model.predicted[rows],
                    model.label_probability[rows],
                ),
            )
            for model in (first, second)
        ]
        differences.append(values[1] - values[0])
    sign = -1 if metric == "log_loss" else 1
    plain = percentile_interval(sign * np.array(differences), 0.95)
    width = plain.high - plain.low
    assert found.low == pytest.approx(plain.low, abs=0.1 * width)
    assert found.high == pytest.approx(plain.high, abs=0.1 * width)


def test_log_loss_interval_matches_theory() -> None:
    """Grouping losses into cells keeps the standard error of their mean."""
    first, second = pair(3, 20_000)
    found = compare_paired("log_loss", first, second)
    spread = (compute_losses(first) - compute_losses(second)).std() / np.sqrt(len(first))
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.05)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_metrics_agree_with_scikit_learn(data: st.DataObject) -> None:
    """Macro F1 and balanced accuracy equal scikit-learn's over the classes that occur."""
    from sklearn.metrics import balanced_accuracy_score, f1_score

    size = data.draw(st.integers(1, 60))
    column = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    labels = np.array(data.draw(column), dtype=np.int64)
    predicted = np.array(data.draw(column), dtype=np.int64)
    predictions = Predictions(tuple("abcd"), labels, predicted, np.full(size, 0.5))
    occurring = np.unique(labels)
    recalls = [np.mean(predicted[labels == label] == label) for label in occurring]
    f1 = f1_score(labels, predicted, labels=occurring, average="macro", zero_division=0.0)
    assert compute_metric("macro_f1", predictions) == pytest.approx(f1)
    assert compute_metric("balanced_accuracy", predictions) == pytest.approx(np.mean(recalls))
    if set(predicted) <= set(labels) and len(occurring) > 1:
        expected = balanced_accuracy_score(labels, predicted)
        assert compute_metric("balanced_accuracy", predictions) == pytest.approx(expected)


def test_equal_models_do_not_differ() -> None:
    """A model and itself: difference 0, an interval of zero width, and a p of 1."""
    model, _ = pair(1, 100)
    for metric in METRICS:
        found = compare_paired(metric, model, model, FEW_DRAWS)
        assert (found.difference, found.low, found.high, found.mcnemar_p) == (0, 0, 0, 1)


def test_same_seed_gives_the_same_interval() -> None:
    """The interval depends on the seed only."""
    first, second = pair(2, 500)
    assert compare_paired("macro_f1", first, second) == compare_paired("macro_f1", first, second)


def test_memory_of_many_small_cells_is_limited() -> None:
    """18,000 images in cells of nine are drawn in chunks."""
    num_images = 18_000
    labels = np.arange(num_images) % 2000
    predictions = Predictions(
        tuple(map(str, range(2000))), labels, labels, np.full(num_images, 0.9, dtype=np.float32)
    )
    tracemalloc.start()
    try:
        compute_interval("macro_f1", predictions, Resampling(draws=200))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300e6


def test_mcnemar_is_exact() -> None:
    """Four against none gives p = 1/8, ten against none 1/512."""
    assert mcnemar_exact(4, 0) == pytest.approx(0.125)
    assert mcnemar_exact(0, 10) == pytest.approx(2 / 1024)
    assert mcnemar_exact(5, 5) == 1
    assert mcnemar_exact(0, 0) == 1


def test_wilson_interval_matches_the_literature() -> None:
    """81 of 263 at 95%: 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, table I)."""
    interval = wilson_interval(81, 263, 0.95)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_interval_contains_the_metric(metric: str) -> None:
    """The interval of each metric contains its value."""
    model, _ = pair(5, 400)
    interval = compute_interval(metric, model, FEW_DRAWS)
    assert interval.low < compute_metric(metric, model) < interval.high


def test_classes_are_matched_by_name() -> None:
    """The order in which models list their classes does not matter."""
    labels = ["cat", "dog", "dog"]
    first = build_predictions(
        labels, ("cat", "dog"), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32)
    )
    second = build_predictions(
        labels, ("dog", "cat"), np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], np.float32)
    )
    assert compare_paired("accuracy", first, second, FEW_DRAWS).difference == 0
    assert compute_metrics(first) == compute_metrics(second)


def test_unknown_class_counts_as_wrong() -> None:
    """An image of a class that the model lacks is wrong and has the maximum loss."""
    predictions = build_predictions(["owl"], ("cat", "dog"), np.array([[0.6, 0.4]], np.float32))
    assert compute_metric("accuracy", predictions) == 0
    assert compute_metric("log_loss", predictions) == pytest.approx(
        -np.log(np.finfo(np.float32).eps)
    )


def test_different_images_are_refused() -> None:
    """Predictions for different labels cannot be compared."""
    first, second = pair(1, 50)[0], pair(2, 50)[0]
    with pytest.raises(ValueError, match="same labelled images"):
        align_classes(first, second)
