"""Thresholds of confidence that bound the error of the answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trialrun.report.abstention import find_answer_rule, measure_answers

Arrays = tuple[NDArray[np.float64], NDArray[np.bool_]]


def predict_digits() -> Arrays:
    """Return confidence and correctness for 1,597 digits, of a model fitted to 200 noisy ones."""
    images, labels = load_digits(return_X_y=True)
    images = images + np.random.default_rng(0).normal(0, 4, images.shape)
    model = LogisticRegression(max_iter=2000, C=1e-3).fit(images[:200], labels[:200])
    probabilities = model.predict_proba(images[200:])
    right = model.classes_[probabilities.argmax(axis=1)] == labels[200:]
    return probabilities.max(axis=1), right


@pytest.mark.parametrize("max_error", [0.05, 0.1])
def test_bound_breaks_in_at_most_a_twentieth_of_resamples(max_error: float) -> None:
    """Of 200 resamples of real predictions; the errors are those of all the predictions."""
    confidence, right = predict_digits()
    assert 1 - right.mean() > max_error  # answering all breaks the bound
    generator, num_broken, coverages = np.random.default_rng(1), 0, []
    for _ in range(200):
        rows = generator.integers(0, len(right), 1000)
        rule = find_answer_rule(confidence[rows], right[rows], max_error=max_error)
        if rule is not None:
            answered = confidence >= rule.threshold
            num_broken += bool(1 - right[answered].mean() > max_error)
            coverages.append(answered.mean())
    assert num_broken <= 10
    assert np.mean(coverages) > 0.2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=300),
    st.sampled_from([0.05, 0.2, 0.5]),
)
def test_rule_counts_the_answers_of_its_threshold(
    answers: list[tuple[int, bool]], max_error: float
) -> None:
    """Equal confidences are all answered or none is, and so few errors are improbable."""
    confidence = np.array([value / 40 for value, _ in answers])
    right = np.array([is_right for _, is_right in answers])
    rule = find_answer_rule(confidence, right, max_error=max_error)
    if rule is None:
        return
    answered = confidence.astype(np.float32) >= np.float32(rule.threshold)
    assert (rule.num_answered, rule.num_wrong) == (answered.sum(), (~right[answered]).sum())
    assert rule.coverage == answered.mean()
    assert rule.num_wrong <= binom.ppf(0.05, rule.num_answered, max_error) + 1


@pytest.mark.parametrize(
    ("num_images", "num_wrong", "num_answered"),
    [(58, 0, None), (59, 0, 59), (1000, 0, 1000), (1000, 60, None), (1000, 30, 1000)],
)
def test_a_model_without_ranks_answers_all_or_nothing(
    num_images: int, num_wrong: int, num_answered: int | None
) -> None:
    """With 95 % confidence, 5 % are excluded by 59 images without an error, and by no fewer."""
    right = np.arange(num_images) >= num_wrong
    rule = find_answer_rule(np.full(num_images, 0.5), right, max_error=0.05)
    assert (None if rule is None else rule.num_answered) == num_answered
    assert rule is None or rule.threshold == 0


def test_sure_answers_are_kept_and_unsure_ones_are_not() -> None:
    """The threshold is above the images that are often wrong."""
    confidence = np.concatenate([np.linspace(0.9, 0.99, 500), np.linspace(0.2, 0.8, 500)])
    right = np.concatenate([np.ones(500, bool), np.arange(500) % 2 == 0])
    rule = find_answer_rule(confidence, right, max_error=0.02)
    assert rule is not None
    assert 0.7 < rule.threshold <= 0.9
    figures = measure_answers(confidence, right, rule.threshold, 0.95)
    coverage, interval = figures["coverage"]
    assert coverage == rule.coverage
    assert interval.low < coverage < interval.high
    assert figures["answered_error"][0] <= 0.02


def test_nothing_answered_has_no_error() -> None:
    """Only the coverage is measured."""
    figures = measure_answers(np.full(3, 0.5), np.ones(3, bool), 0.9, 0.95)
    assert {name: value for name, (value, _) in figures.items()} == {"coverage": 0.0}
