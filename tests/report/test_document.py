"""The report of a model: pictures, tables and page."""

import io

import numpy as np
import pytest
from PIL import Image

from trialrun.report.document import ReportData, build_report, find_worst_mistakes
from trialrun.report.figures.gallery import Mistake
from trialrun.report.predictions import Predictions, build_predictions

ODD_NAMES = (
    "a/b",
    "\U0001f431 cat",
    "x" * 300,
    "$x$ $y",
    "<b>bold</b>",
    "\u732b",
    "",
    "..",
    "a\nb",
)


def make_data(classes: tuple[str, ...], num_images: int = 60) -> ReportData:
    """Return a report of random predictions."""
    generator = np.random.default_rng(0)
    labels = [classes[index] for index in generator.integers(len(classes), size=num_images)]
    probabilities = generator.dirichlet(np.ones(len(classes)), num_images).astype(np.float32)
    predictions = build_predictions(labels, classes, probabilities)
    mistakes = [
        Mistake(
            f"{predictions.classes[predictions.labels[position]]}/file.png",
            predictions.classes[predictions.labels[position]],
            predictions.classes[predictions.predicted[position]],
            0.5,
            np.zeros((8, 8, 3), np.uint8),
            np.zeros((8, 8), np.float32),
        )
        for position in find_worst_mistakes(predictions, 24)
    ]
    curves = {"loss": {"training": {1: 2.0, 2: 1.0}, "validation": {1: 2.0, 2: 1.5}}}
    return ReportData(
        title="model <1>",
        predictions=predictions,
        top5_accuracy=0.5,
        mistakes=mistakes,
        curves=curves,
    )


@pytest.mark.filterwarnings("error")
def test_odd_class_names_are_drawn_and_escaped() -> None:
    """Slashes, emoji, 300 characters, formulas and markup change nothing."""
    report = build_report(make_data(ODD_NAMES))
    assert set(report.pictures) == {
        "curves.png",
        "confusion_matrix.png",
        "calibration.png",
        "worst_mistakes.png",
        "worst_mistakes_heat.png",
    }
    assert "<b>bold</b>" not in report.page
    assert "model &lt;1&gt;" in report.page
    assert report.page.count("data:image/png;base64,") == 5
    for content in report.pictures.values():
        assert Image.open(io.BytesIO(content)).width > 100


@pytest.mark.slow
def test_a_thousand_classes_have_a_readable_matrix() -> None:
    """The hundred classes with the most errors are drawn, and all are in the table."""
    report = build_report(make_data(tuple(f"class {index}" for index in range(1000)), 2000))
    assert Image.open(io.BytesIO(report.pictures["confusion_matrix.png"])).width < 3000
    assert "class 999" in report.page


def test_model_without_mistakes_has_a_report() -> None:
    """No gallery is drawn, and the page says so."""
    labels = np.array([0, 1, 0, 1])
    right = Predictions(("a", "b"), labels, labels, np.full(4, 0.9), np.full(4, 0.9))
    report = build_report(ReportData(title="t", predictions=right, top5_accuracy=None, mistakes=()))
    assert "worst_mistakes.png" not in report.pictures
    assert "No image is classified wrongly." in report.page
    assert "top-5" not in report.page


def test_model_without_probabilities_has_no_calibration() -> None:
    """Mistakes are then ordered by the probability of the label."""
    labels, predicted = np.array([0, 0, 1]), np.array([1, 1, 1])
    predictions = Predictions(("a", "b"), labels, predicted, np.array([0.4, 0.1, 1.0]))
    assert find_worst_mistakes(predictions, 24) == [1, 0]
    data = ReportData(title="t", predictions=predictions, top5_accuracy=None, mistakes=())
    assert "calibration.png" not in build_report(data).pictures


def test_worst_mistakes_are_the_most_confident() -> None:
    """Right predictions are left out, however confident."""
    labels, predicted = np.array([0, 0, 0, 0]), np.array([1, 0, 1, 1])
    confidence = np.array([0.6, 0.99, 0.9, 0.7])
    predictions = Predictions(("a", "b"), labels, predicted, 1 - confidence, confidence)
    assert find_worst_mistakes(predictions, 2) == [2, 3]
