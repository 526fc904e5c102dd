"""The report of an evaluation or a training among the artifacts of its run.

Tensor letters: N images, S the image size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.compute.torch_errors import translate_scoring_errors
from trialrun.errors import OutOfMemoryError
from trialrun.files import scratch_directory
from trialrun.images import ImageItem, ImageSet
from trialrun.images.dataset import make_printable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.report.document import (
    Report,
    ReportData,
    Suspects,
    build_report,
    find_worst_mistakes,
)
from trialrun.report.figures.gallery import Mistake
from trialrun.report.label_errors import find_label_errors
from trialrun.report.predictions import Predictions
from trialrun.runs.evaluation.predictions import ImagePredictions
from trialrun.runs.evaluation.tables import format_csv
from trialrun.runs.scoring.images import decode_file
from trialrun.scoring.saliency import compute_heat
from trialrun.tracking import TrackedRun

NUM_MISTAKES = 24
NUM_SUSPECTS = 50
_COLUMNS = ("name", "label", "predicted", "confidence")  # of tables of images
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
    found = _load_all(find_worst_mistakes(images.predictions, NUM_MISTAKES), load_pixels)
    heat = _compute_heat(images.predictions, found, classifier)
    return [
        _describe_image(images, position, pixels, None if heat is None else heat[number])
        for number, (position, pixels) in enumerate(found)
    ]


def collect_suspects(images: ImagePredictions, load_pixels: LoadPixels) -> Suspects:
    """Return the images whose label is probably wrong; those to show have their pixels.

    Raises:
        InvalidParameterError: cleanlab is not installed.
    """
    positions = find_label_errors(images.predictions)
    shown = _load_all(positions[:NUM_SUSPECTS], load_pixels)
    return Suspects(
        positions, [_describe_image(images, position, pixels) for position, pixels in shown]
    )


def _load_all(positions: Sequence[int], load_pixels: LoadPixels) -> list[tuple[int, Tensor]]:
    loaded = ((position, load_pixels(position)) for position in positions)
    return [(position, pixels) for position, pixels in loaded if pixels is not None]


def _describe_image(
    images: ImagePredictions,
    position: int,
    pixels: Tensor,
    heat: NDArray[np.float32] | None = None,
) -> Mistake:
    predictions = images.predictions
    return Mistake(
        name=make_printable(images.names[position]),
        label=predictions.classes[predictions.labels[position]],
        predicted=predictions.classes[predictions.predicted[position]],
        confidence=_find_confidence(predictions, position),
        pixels=pixels.permute(1, 2, 0).numpy(),
        heat=heat,
    )


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
    try:
        with translate_scoring_errors(torch.device("cpu")):
            return compute_heat(classifier, torch.stack([pixels for _, pixels in found]), indices)
    except OutOfMemoryError:  # the report does without it
        return None


def log_report(
    run: TrackedRun,
    data: ReportData,
    names: Sequence[str],
    pictures: Mapping[str, bytes] | None = None,
) -> Report:
    """Store the page, the pictures and the tables of a report with the run.

    `pictures` are further ones, by file name, that are not on the page.
    """
    report = build_report(data)
    files = list_files(report, data.predictions, names, data.suspects) | dict(pictures or {})
    with scratch_directory() as scratch:
        for name, content in files.items():
            (scratch / name).write_bytes(content)
            run.log_artifact(scratch / name, _FOLDER)
    return report


def list_files(
    report: Report,
    predictions: Predictions,
    names: Sequence[str],
    suspects: Suspects | None = None,
) -> dict[str, bytes]:
    """Return the content of each file of a report; `names` are those of the images."""
    worst = find_worst_mistakes(predictions, len(predictions))
    tables = {"mistakes.csv": _list_images(predictions, names, worst)}
    if suspects is not None:
        tables["label_errors.csv"] = _list_images(predictions, names, suspects.positions)
    return {
        **report.pictures,
        "report.html": report.page.encode("utf-8"),
        "metrics.csv": format_csv(_list_metrics(report)).encode("utf-8"),
        **{name: format_csv(rows, _COLUMNS).encode("utf-8") for name, rows in tables.items()},
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


def _list_images(
    predictions: Predictions, names: Sequence[str], positions: Sequence[int]
) -> list[dict[str, Any]]:
    classes = predictions.classes
    return [
        dict(
            zip(
                _COLUMNS,
                (
                    names[position],
                    classes[predictions.labels[position]],
                    classes[predictions.predicted[position]],
                    _find_confidence(predictions, position),
                ),
                strict=True,
            )
        )
        for position in positions
    ]
