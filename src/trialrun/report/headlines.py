"""The headline metrics of a report, each with its interval, and averages over classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trialrun.report.calibration import Calibration
from trialrun.report.intervals import Groups, Interval, compute_interval, limit_binomial
from trialrun.report.metrics import ACCURACY, BALANCED_ACCURACY, LOG_LOSS, MACRO_F1, compute_metric
from trialrun.report.predictions import Predictions
from trialrun.report.tables import ClassReport


@dataclass(frozen=True, slots=True)
class Headline:
    """A metric with its confidence interval."""

    name: str
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Averages:
    """Precision, recall and F1 averaged over classes, each from 0 to 1."""

    name: str  # macro or weighted
    precision: float
    recall: float
    f1: float


_TITLES = {
    ACCURACY: "accuracy",
    BALANCED_ACCURACY: "balanced accuracy",
    MACRO_F1: "macro F1",
    LOG_LOSS: "log loss",
}


def compute_headlines(
    predictions: Predictions,
    calibration: Calibration | None,
    top5_accuracy: float | None,
    *,
    level: float = 0.95,
    groups: Groups | None = None,
) -> list[Headline]:
    """Return the headline metrics of a report.

    `top5_accuracy` is None with fewer than five classes, `calibration` without probabilities.
    """
    rows = [
        Headline(
            title,
            compute_metric(metric, predictions),
            compute_interval(metric, predictions, level, groups),
        )
        for metric, title in _TITLES.items()
    ]
    if top5_accuracy is not None:
        num_right = round(top5_accuracy * len(predictions))
        interval = limit_binomial(num_right, len(predictions), (1 - level) / 2)
        rows.insert(1, Headline("top-5 accuracy", top5_accuracy, interval))
    if calibration is not None:
        rows.append(Headline("calibration error", calibration.error, calibration.interval))
    return rows


def compute_averages(reports: Sequence[ClassReport]) -> list[Averages]:
    """Return the averages over the classes that have images: plain, and weighted by images."""
    present = [report for report in reports if report.images]
    scores = np.array([(report.precision, report.recall, report.f1) for report in present])
    images = np.array([report.images for report in present])
    return [
        Averages("macro", *map(float, scores.mean(axis=0))),
        Averages("weighted", *map(float, np.average(scores, axis=0, weights=images))),
    ]
