"""A model's answers on a labelled set: what evaluation, promotion and comparison judge by.

They are kept with the run as `predictions.parquet`, a row an image under its content's hash, so
that runs which answered the same images can be compared later.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.errors import InvalidDatasetError, NotLabeledDatasetError
from trialrun.files import scratch_directory
from trialrun.image_cache import MAX_UNREADABLE_FRACTION
from trialrun.images import escape_non_utf8
from trialrun.images.scanning.scan import DatasetScan
from trialrun.models.classifier import ImageClassifier
from trialrun.registry.versions import read_artifact_bytes
from trialrun.report.predictions import Predictions, build_predictions
from trialrun.runs.datasets.scan import scan_set
from trialrun.runs.datasets.sources import open_source
from trialrun.runs.evaluation.score import read_contents
from trialrun.scoring import ImageScore, score_images
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True, slots=True)
class ImagePredictions:
    """Images by name and sha256, in the set's order, and what a model said of each."""

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    predictions: Predictions


def open_labelled_data(source: str) -> DatasetScan:
    """The labelled images of `source`, each file read once.

    Raises:
        NotLabeledDatasetError: No image has a label.
        DataError: As `open_source` says.
    """
    images = open_source(source).drop_unlabelled()
    if not images.items:
        raise NotLabeledDatasetError(
            f"{source} has no labels to judge by", "Sort the images into one sub-folder a class."
        )
    return scan_set(images)


def predict_images(classifier: ImageClassifier, scan: DatasetScan) -> list[ImageScore]:
    """A score an image, in the set's order."""
    return list(score_images(classifier, read_contents(scan.images)))


def find_readable_rows(scan: DatasetScan, *scored: Sequence[ImageScore]) -> NDArray[np.int64]:
    """The rows that every model could score.

    Raises:
        InvalidDatasetError: More than a tenth could not be read.
    """
    rows = [row for row, each in enumerate(zip(*scored, strict=True)) if not _failure_reason(each)]
    num_lost = len(scan.images) - len(rows)
    if num_lost > MAX_UNREADABLE_FRACTION * len(scan.images):
        raise InvalidDatasetError(
            f"{num_lost} of {len(scan.images)} images in {scan.images.source} cannot be read",
            "Remove or replace them.",
        )
    return np.array(rows, dtype=np.int64)


def _failure_reason(scores: tuple[ImageScore, ...]) -> str:
    return next((each.error for each in scores if each.error), "")


def collect_predictions(
    scan: DatasetScan,
    rows: NDArray[np.int64],
    classes: Sequence[str],
    scores: Sequence[ImageScore],
) -> ImagePredictions:
    """The images at `rows` with what a model of `classes` said of them."""
    items = [scan.images.items[row] for row in rows]
    probabilities = np.stack([_find_known(scores[row]) for row in rows])
    labels = [str(item.label) for item in items]
    return ImagePredictions(
        tuple(escape_non_utf8(item.name) for item in items),
        tuple(scan.files[row].sha256 for row in rows),
        build_predictions(labels, classes, probabilities),
    )


def _find_known(scored: ImageScore) -> NDArray[np.float32]:
    assert scored.probabilities is not None
    return scored.probabilities


def log_predictions(run: TrackedRun, images: ImagePredictions, *, name: str = _PREDICTIONS) -> None:
    """Store the answers with the run."""
    import pandas as pd

    given = images.predictions
    classes = np.array(given.classes, dtype=object)
    table = pd.DataFrame(
        {
            "name": images.names,
            "sha256": images.sha256,
            "label": classes[given.labels],
            "predicted": classes[given.predicted],
            "label_probability": given.label_probability,
        }
    )
    with scratch_directory() as scratch:
        path = scratch / name
        table.to_parquet(path, index=False)
        run.log_artifact(path)


def load_predictions(client: "MlflowClient", run_id: str) -> ImagePredictions | None:
    """The answers that `keep` stored; None where the run has none.

    Raises:
        TrackingError: The run is not there, or the store fails.
    """
    import pandas as pd

    data = read_artifact_bytes(client, run_id, _PREDICTIONS)
    if data is None:
        return None
    table = pd.read_parquet(io.BytesIO(data))
    classes = tuple(sorted({*table["label"], *table["predicted"]}))
    place = {name: index for index, name in enumerate(classes)}
    predictions = Predictions(
        classes,
        table["label"].map(place).to_numpy(np.int64),
        table["predicted"].map(place).to_numpy(np.int64),
        table["label_probability"].to_numpy(np.float64),
    )
    return ImagePredictions(tuple(table["name"]), tuple(table["sha256"]), predictions)


def align_by_hash(
    first: ImagePredictions, second: ImagePredictions
) -> tuple[Predictions, Predictions] | None:
    """Both models' answers in one order of images; None where images or labels are others."""
    rows, other_rows = _sort_by_content(first), _sort_by_content(second)
    if [key for key, _ in rows] != [key for key, _ in other_rows]:
        return None
    return _select_rows(first.predictions, rows), _select_rows(second.predictions, other_rows)


def _sort_by_content(images: ImagePredictions) -> list[tuple[tuple[str, str], int]]:
    """Contents with their labels, and the row of each, sorted: two files may hold one picture."""
    given = images.predictions
    labels = (given.classes[label] for label in given.labels)
    return sorted((key, row) for row, key in enumerate(zip(images.sha256, labels, strict=True)))


def _select_rows(given: Predictions, ordered: Sequence[tuple[tuple[str, str], int]]) -> Predictions:
    rows = [row for _, row in ordered]
    return Predictions(
        given.classes, given.labels[rows], given.predicted[rows], given.label_probability[rows]
    )
