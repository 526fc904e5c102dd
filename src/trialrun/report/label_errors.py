"""Images whose label is probably wrong, found by confident learning.

Array letters: N images, C classes.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

from trialrun.extras import check_extra, import_extra
from trialrun.report.predictions import Predictions

MAX_CELLS = 50_000_000  # of the (N, C) probabilities, 200 MB

_NEEDED_BY = "audit=true"


def check_audit() -> None:
    """Check that the package that finds label errors is installed.

    Raises:
        InvalidParameterError: It is not.
    """
    check_extra("cleanlab", "audit", needed_by=_NEEDED_BY)


def find_label_errors(predictions: Predictions) -> list[int]:
    """Return the positions of images with a probably wrong label, the least likely label first.

    A prediction holds the probabilities of two classes: of the label, and of the predicted class.
    The rest is spread over the others, which decide nothing: each has less than the predicted one.
    Empty without confidences, and above `MAX_CELLS`.

    Raises:
        InvalidParameterError: cleanlab is not installed.

    Source:
        Northcutt, Jiang and Chuang 2021, Confident Learning, arXiv:1911.00068; computed by
        cleanlab.
    """
    find_label_issues = import_extra(
        "cleanlab.filter", "audit", needed_by=_NEEDED_BY
    ).find_label_issues
    if predictions.confidence is None or predictions.right.all():
        return []
    if len(predictions) * len(predictions.classes) > MAX_CELLS:
        return []
    probabilities = _spread_probabilities(predictions, predictions.confidence)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning per class with few images
        found = find_label_issues(
            predictions.labels,
            probabilities,
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    positions: list[int] = found.tolist()
    return positions


def _spread_probabilities(
    predictions: Predictions, confidence: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return (N, C) probabilities whose rows sum to 1."""
    num_classes, rows = len(predictions.classes), np.arange(len(predictions))
    known = np.where(predictions.right, confidence, confidence + predictions.label_probability)
    num_others = np.maximum(num_classes - np.where(predictions.right, 1, 2), 1)
    rest = (np.maximum(1 - known, 0) / num_others).astype(np.float32)
    probabilities = np.repeat(rest[:, None], num_classes, axis=1)
    probabilities[rows, predictions.labels] = predictions.label_probability
    probabilities[rows, predictions.predicted] = confidence
    return probabilities
