"""Tables out of predictions.

Array letters: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClassReport:
    """How one class fared; shares run from 0 to 1, and are 0 where nothing was to be counted."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """(C, C) counts, a row a true class, a column a predicted one."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def compute_class_reports(
    confusion: NDArray[np.int64], classes: Sequence[str]
) -> list[ClassReport]:
    """Precision, recall and F1 of every class, in the classes' order."""
    hits = np.diag(confusion).astype(float)
    of_class, as_class = confusion.sum(axis=1), confusion.sum(axis=0)
    precision = _compute_share(hits, as_class)
    recall = _compute_share(hits, of_class)
    f1 = _compute_share(2 * hits, of_class + as_class)
    return [
        ClassReport(name, int(of_class[i]), float(precision[i]), float(recall[i]), float(f1[i]))
        for i, name in enumerate(classes)
    ]


def tabulate_rows(reports: Sequence[ClassReport]) -> list[dict[str, Any]]:
    """The table as plain rows."""
    return [asdict(report) for report in reports]


def _compute_share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return shares
