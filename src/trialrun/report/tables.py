"""Confusion matrix and per-class table of predictions.

Array letters: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClassReport:
    """Precision, recall and F1 of one class, from 0 to 1; 0 if their denominator is 0."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Return (C, C) counts with one row per true class and one column per predicted class."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def compute_class_reports(
    confusion: NDArray[np.int64], classes: Sequence[str]
) -> list[ClassReport]:
    """Return the reports of all classes in the order of `classes`."""
    hits = np.diag(confusion).astype(float)
    num_labelled, num_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = _compute_share(hits, num_predicted)
    recall = _compute_share(hits, num_labelled)
    f1 = _compute_share(2 * hits, num_labelled + num_predicted)
    return [
        ClassReport(name, int(num_labelled[i]), float(precision[i]), float(recall[i]), float(f1[i]))
        for i, name in enumerate(classes)
    ]


def tabulate_rows(reports: Sequence[ClassReport]) -> list[dict[str, Any]]:
    """Return one dictionary per class."""
    return [asdict(report) for report in reports]


def _compute_share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return shares
