"""The report of an evaluation or a training among the artifacts of its run.

Tensor letters: N images, S the image size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.files import scratch_directory
from trialrun.images import ImageItem, ImageSet
from trialrun.images.dataset import make_printable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.report.document import Report, ReportData, build_report, find_worst_mistakes
from trialrun.report.figures.gallery import Mistake
from trialrun.report.predictions import Predictions
from trialrun.runs.evaluation.predictions import ImagePredictions
from trialrun.runs.evaluation.tables import format_csv
from trialrun.runs.scoring.images import decode_file
from trialrun.scoring.saliency import compute_heat
from trialrun.tracking import TrackedRun

NUM_MISTAKES = 24
PICTURE_SIZE = 224  # pixels, of images that a foreign model gets in their own size
_FOLDER = "report"  # among the artifacts

LoadPixels = Callable[[int], Tensor | None]
"""Returns the (3, S, S) uint8 pixels of the image at a position; None if it cannot be read."""


def make_file_loader(
    images: ImageSet, items: Sequence[ImageItem], classifier: ImageClassifier | None
) -> LoadPixels:
    """Return a function that decodes the files of `items` as the classifier gets them.

    A foreign model, which is None, prepares images itself.
    """
    preprocessing = Preprocessing(PICTURE_SIZE) if classifier is None else classifier.preprocessing

    def load_pixels(position: int) -> Tensor | None:
        pixels = decode_file(images, preprocessing, items[position])
        return None if isinstance(pixels, str) else pixels

    return load_pixels


def collect_mistakes(
    images: ImagePredictions, load_pixels: LoadPixels, classifier: ImageClassifier | None
) -> list[Mistake]:
    """Return the worst mistakes, with the places that they come from if there is a classifier."""
    predictions = images.predictions
    found = [
        (position, pixels)
        for position in find_worst_mistakes(predictions, NUM_MISTAKES)
        if (pixels := load_pixels(position)) is not None
    ]
    heat = _compute_heat(predictions, found, classifier)
    return [
        Mistake(
            name=make_printable(images.names[position]),
            label=predictions.classes[predictions.labels[position]],
            predicted=predictions.classes[predictions.predicted[position]],
            confidence=_find_confidence(predictions, position),
            pixels=pixels.permute(1, 2, 0).numpy(),
            heat=None if heat is None else heat[number],
        )
        for number, (position, pixels) in enumerate(found)
    ]


def _find_confidence(predictions: Predictions, position: int) -> float:
    confidence = predictions.confidence
    return float("nan") if confidence is None else float(confidence[position])


def _compute_heat(
    predictions: Predictions,
    found: Sequence[tuple[int, Tensor]],
    classifier: ImageClassifier | None,
) -> NDArray[np.float32] | None:
    if not found or classifier is None:
        return None
    if len({pixels.shape for _, pixels in found}) > 1:  # Azure's networks take any size
        return None
    index_of = {name: index for index, name in enumerate(classifier.classes)}
    predicted = [predictions.classes[predictions.predicted[position]] for position, _ in found]
    indices = np.array([index_of[name] for name in predicted], dtype=np.int64)
    return compute_heat(classifier, torch.stack([pixels for _, pixels in found]), indices)


def log_report(run: TrackedRun, data: ReportData, names: Sequence[str]) -> Report:
    """Store the page, the pictures and the tables of a report with the run."""
    report = build_report(data)
    with scratch_directory() as scratch:
        for name, content in list_files(report, data.predictions, names).items():
            (scratch / name).write_bytes(content)
            run.log_artifact(scratch / name, _FOLDER)
    return report


def list_files(report: Report, predictions: Predictions, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of each file of a report; `names` are those of the images."""
    return {
        **report.pictures,
        "report.html": report.page.encode("utf-8"),
        "metrics.csv": format_csv(_list_metrics(report)).encode("utf-8"),
        "mistakes.csv": format_csv(_list_mistakes(predictions, names)).encode("utf-8"),
    }


def _list_metrics(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "metric": row.name,
            "value": row.value,
            "low": row.interval.low,
            "high": row.interval.high,
        }
        for row in report.headlines
    ]


def _list_mistakes(predictions: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return all wrong predictions, the most confident first."""
    classes = predictions.classes
    return [
        {
            "name": names[position],
            "label": classes[predictions.labels[position]],
            "predicted": classes[predictions.predicted[position]],
            "confidence": _find_confidence(predictions, position),
        }
        for position in find_worst_mistakes(predictions, len(predictions))
    ]
