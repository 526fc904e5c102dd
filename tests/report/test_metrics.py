"""Tests of the metrics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.models import make_predictions
from trialrun.config.promote import METRICS
from trialrun.report.metrics import LARGEST_LOSS, compute_metric, compute_recall, count_classes
from trialrun.report.predictions import Predictions, build_predictions


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


def test_unknown_class_counts_as_wrong() -> None:
    """An image of a class that the model lacks is wrong and has the largest loss."""
    predictions = build_predictions(["owl"], ("cat", "dog"), np.array([[0.6, 0.4]], np.float32))
    assert compute_metric("accuracy", predictions) == 0
    assert compute_metric("log_loss", predictions) == pytest.approx(LARGEST_LOSS)


def test_log_loss_is_the_mean_of_the_logarithms() -> None:
    """Probabilities 0.8 and 0.2 of the label give -(log 0.8 + log 0.2) / 2."""
    predictions = make_predictions(np.array([0, 1]), np.array([0, 2]), probability=0.8)
    expected = -(np.log(0.8) + np.log(0.2)) / 2
    assert compute_metric("log_loss", predictions) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_no_images_are_refused(metric: str) -> None:
    """No metric has a value without images."""
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="no images"):
        compute_metric(metric, make_predictions(nothing, nothing))


def test_classes_without_images_have_no_part() -> None:
    """A class that is only predicted has no recall and no F1 score."""
    predictions = make_predictions(np.array([0, 0, 1]), np.array([0, 7, 1]))
    assert compute_recall(predictions) == {"0": 0.5, "1": 1.0}
    counts = count_classes(predictions)
    assert counts.num_present == 2
    assert counts.f1[7] == 0
    assert compute_metric("macro_f1", predictions) == pytest.approx((2 / 3 + 1) / 2)
