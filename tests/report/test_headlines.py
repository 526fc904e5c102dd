"""Headline metrics and averages, compared with scikit-learn's."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from trialrun.report.calibration import measure_calibration
from trialrun.report.headlines import compute_averages, compute_headlines
from trialrun.report.predictions import build_predictions
from trialrun.report.tables import compute_class_reports, confusion_matrix

CLASSES = tuple("abcdefgh")


def test_metrics_are_those_of_scikit_learn() -> None:
    """Each has an interval that contains it; the weighted averages count images."""
    generator = np.random.default_rng(1)
    labels = generator.choice(8, size=300, p=[0.3, 0.2, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05])
    probabilities = generator.dirichlet(np.ones(8), size=300)
    names = [CLASSES[label] for label in labels]
    predictions = build_predictions(names, CLASSES, probabilities.astype(np.float32))
    assert predictions.confidence is not None
    assert predictions.in_top5 is not None
    calibration = measure_calibration(predictions.confidence, predictions.right)
    headlines = compute_headlines(predictions, calibration, float(predictions.in_top5.mean()))
    values = {row.name: row.value for row in headlines}
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": (predicted == labels).mean(),
        "top-5 accuracy": top_k_accuracy_score(labels, probabilities, k=5),
        "balanced accuracy": balanced_accuracy_score(labels, predicted),
        "log loss": log_loss(labels, probabilities),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert all(row.interval.low <= row.value <= row.interval.high for row in headlines)

    reports = compute_class_reports(confusion_matrix(labels, predicted, 8), CLASSES)
    for row in compute_averages(reports):
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predicted, average=row.name, zero_division=0
        )
        assert (row.precision, row.recall, row.f1) == pytest.approx((precision, recall, f1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_metrics_are_those_of_mlflow(store: str) -> None:
    """`mlflow.models.evaluate` computes the same accuracy, F1 and averages."""
    generator = np.random.default_rng(2)
    labels, predicted = generator.integers(4, size=(2, 200))
    reports = compute_class_reports(confusion_matrix(labels, predicted, 4), tuple("abcd"))
    weighted = compute_averages(reports)[1]
    theirs = mlflow.models.evaluate(
        data=pd.DataFrame({"label": labels, "predicted": predicted}),
        targets="label",
        predictions="predicted",
        model_type="classifier",
        evaluator_config={"log_explainer": False},
    ).metrics
    names = ("accuracy_score", "precision_score", "recall_score", "f1_score")
    ours = ((labels == predicted).mean(), weighted.precision, weighted.recall, weighted.f1)
    assert [theirs[name] for name in names] == pytest.approx(ours)
