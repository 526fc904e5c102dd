"""A model's predictions on labelled images, which evaluation, promotion and comparison use.

A run stores them in `predictions.parquet`, one row per image with the hash of its content, so that
runs with predictions for the same images can be compared later.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidDatasetError, NotLabeledDatasetError
from trialrun.files import scratch_directory
from trialrun.image_cache import MAX_UNREADABLE_FRACTION
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.images import ImageItem, escape_non_utf8
from trialrun.images.scanning.scan import DatasetScan
from trialrun.registry.versions import read_artifact_bytes
from trialrun.report.predictions import Predictions, build_predictions
from trialrun.runs.datasets.scan import scan_set
from trialrun.runs.datasets.sources import open_source
from trialrun.runs.evaluation.groups import LikenessSampler
from trialrun.runs.scoring.images import read_contents
from trialrun.scoring.batching import plan_batches
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.pipeline import score_images
from trialrun.scoring.scores import ImageScore, ScoredImages
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True, slots=True)
class ImagePredictions:
    """Predictions of a model, with the name and SHA-256 of each image, in the set's order."""

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    predictions: Predictions
    groups: tuple[str | None, ...] = ()  # named groups; empty if no image has one


def open_labelled_data(
    source: str,
    *,
    group_column: str | None = None,
    group_pattern: str | None = None,
    config: DataConfig = DEFAULT_DATA_CONFIG,
    note: Callable[[str], None] | None = None,
) -> DatasetScan:
    """Open `source` and scan the files of its labelled images; `note` gets what was ignored.

    Raises:
        NotLabeledDatasetError: No image has a label.
        DataError: See `open_source`.
    """
    images = open_source(
        source, group_column=group_column, group_pattern=group_pattern, config=config
    ).drop_unlabelled()
    if not images.items:
        raise NotLabeledDatasetError(
            "; ".join([f"{source} has no labels", *images.notes]),
            "Sort the images into one sub-folder per class, or say with label_column, "
            "label_pattern or classes where the labels are.",
        )
    if note is not None:
        for text in images.notes:
            note(f"{source}: {text}")
    return scan_set(images)


def predict_images(
    network: ScoringNetwork, scan: DatasetScan
) -> tuple[ScoredImages, PerceptualHashes]:
    """Score every image of the set, in its order; return the scores and the perceptual hashes."""
    sampler = LikenessSampler()
    contents = read_contents(scan.images)
    scores = list(score_images(network, contents, observe=sampler.add, plan=plan_batches(network)))
    return ScoredImages(network.classes, scores), sampler.compute_hashes()


def find_readable_rows(scan: DatasetScan, *scored: ScoredImages) -> NDArray[np.int64]:
    """Return the rows of the images that every model could score.

    Raises:
        InvalidDatasetError: More than a tenth of the images could not be read.
    """
    rows = [
        row
        for row, scores in enumerate(zip(*(model.scores for model in scored), strict=True))
        if not any(score.error for score in scores)
    ]
    num_unreadable = len(scan.images) - len(rows)
    if num_unreadable > MAX_UNREADABLE_FRACTION * len(scan.images):
        raise InvalidDatasetError(
            f"{num_unreadable} of {len(scan.images)} images in {scan.images.source} cannot be read",
            "Remove or replace them.",
        )
    return np.array(rows, dtype=np.int64)


def collect_predictions(
    scan: DatasetScan, rows: NDArray[np.int64], scored: ScoredImages
) -> ImagePredictions:
    """Return the predictions for the images at `rows`."""
    items = [scan.images.items[row] for row in rows]
    probabilities = np.stack([_get_probabilities(scored.scores[row]) for row in rows])
    labels = [str(item.label) for item in items]
    predictions = build_predictions(labels, scored.classes, probabilities)
    if not scored.has_probabilities:
        predictions = replace(predictions, confidence=None, in_top5=None)
    return ImagePredictions(
        tuple(escape_non_utf8(item.name) for item in items),
        tuple(scan.files[row].sha256 for row in rows),
        predictions,
        collect_groups(items),
    )


def collect_groups(items: Sequence[ImageItem]) -> tuple[str | None, ...]:
    """Return the named group of each image, as valid UTF-8; empty if no image has one."""
    groups = tuple(item.group and escape_non_utf8(item.group) for item in items)
    return groups if any(group is not None for group in groups) else ()


def _get_probabilities(score: ImageScore) -> NDArray[np.float32]:
    assert score.probabilities is not None
    return score.probabilities


def log_predictions(run: TrackedRun, images: ImagePredictions, *, name: str = _PREDICTIONS) -> None:
    """Store the predictions with the run, as Parquet."""
    import pandas as pd

    predictions = images.predictions
    classes = np.array(predictions.classes, dtype=object)
    table = pd.DataFrame(
        {
            "name": images.names,
            "sha256": images.sha256,
            "label": classes[predictions.labels],
            "predicted": classes[predictions.predicted],
            "label_probability": predictions.label_probability,
            **({"group": images.groups} if images.groups else {}),
        }
    )
    with scratch_directory() as scratch:
        path = scratch / name
        table.to_parquet(path, index=False)
        run.log_artifact(path)


def load_predictions(client: "MlflowClient", run_id: str) -> ImagePredictions | None:
    """Return the predictions that `log_predictions` stored; None if the run has none.

    Raises:
        TrackingError: The run does not exist, or the store fails.
    """
    import pandas as pd

    data = read_artifact_bytes(client, run_id, _PREDICTIONS)
    if data is None:
        return None
    table = pd.read_parquet(io.BytesIO(data))
    classes = tuple(sorted({*table["label"], *table["predicted"]}))
    class_index = {name: index for index, name in enumerate(classes)}
    predictions = Predictions(
        classes,
        table["label"].map(class_index).to_numpy(np.int64),
        table["predicted"].map(class_index).to_numpy(np.int64),
        table["label_probability"].to_numpy(np.float64),
    )
    groups = tuple(None if pd.isna(group) else str(group) for group in table.get("group", ()))
    return ImagePredictions(tuple(table["name"]), tuple(table["sha256"]), predictions, groups)


def align_by_hash(
    first: ImagePredictions, second: ImagePredictions
) -> tuple[ImagePredictions, ImagePredictions] | None:
    """Return both predictions in the same order of images; None if images or labels differ."""
    rows, other_rows = _sort_by_content(first), _sort_by_content(second)
    if [key for key, _ in rows] != [key for key, _ in other_rows]:
        return None
    return (
        _select_rows(first, [row for _, row in rows]),
        _select_rows(second, [row for _, row in other_rows]),
    )


def _sort_by_content(images: ImagePredictions) -> list[tuple[tuple[str, str], int]]:
    """Return (hash, label) and row of each image, sorted; files may have the same content."""
    predictions = images.predictions
    labels = (predictions.classes[label] for label in predictions.labels)
    return sorted((key, row) for row, key in enumerate(zip(images.sha256, labels, strict=True)))


def _select_rows(images: ImagePredictions, rows: Sequence[int]) -> ImagePredictions:
    predictions = images.predictions
    return ImagePredictions(
        tuple(images.names[row] for row in rows),
        tuple(images.sha256[row] for row in rows),
        Predictions(
            predictions.classes,
            predictions.labels[rows],
            predictions.predicted[rows],
            predictions.label_probability[rows],
        ),
        tuple(images.groups[row] for row in rows) if images.groups else (),
    )
