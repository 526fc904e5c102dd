"""Tests of predictions and their classes."""

import numpy as np
import pytest

from tests.report.models import make_pair
from trialrun.report.metrics import compute_metrics
from trialrun.report.paired import compare_paired
from trialrun.report.predictions import align_classes, build_predictions


def test_classes_are_matched_by_name() -> None:
    """The order in which models list their classes does not matter."""
    labels = ["cat", "dog", "dog"]
    first = build_predictions(
        labels, ("cat", "dog"), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32)
    )
    second = build_predictions(
        labels, ("dog", "cat"), np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], np.float32)
    )
    assert compare_paired("accuracy", first, second).difference == 0
    assert compute_metrics(first) == compute_metrics(second)


def test_models_with_different_classes_are_comparable() -> None:
    """A class that only one model has is counted in both."""
    labels = ["cat", "owl"]
    first = build_predictions(labels, ("cat", "dog"), np.array([[0.9, 0.1]] * 2, np.float32))
    second = build_predictions(
        labels, ("cat", "owl"), np.array([[0.8, 0.2], [0.3, 0.7]], np.float32)
    )
    first, second = align_classes(first, second)
    assert first.classes == second.classes == ("cat", "dog", "owl")
    assert compare_paired("accuracy", first, second).difference == 0.5


def test_different_images_are_refused() -> None:
    """Predictions for different labels cannot be compared."""
    first, second = make_pair(1, 50)[0], make_pair(2, 50)[0]
    with pytest.raises(ValueError, match="same labelled images"):
        align_classes(first, second)


def test_labels_without_probabilities_are_refused() -> None:
    """Labels and probabilities must be of the same number."""
    with pytest.raises(ValueError, match="2 labels for 1 rows"):
        build_predictions(["cat", "dog"], ("cat", "dog"), np.array([[0.9, 0.1]], np.float32))
