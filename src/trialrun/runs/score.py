"""Bulk scoring: every image of a source to a row of probabilities, as CSV or Parquet."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.engine.isolation import isolate_torch_state
from trialrun.errors import InvalidDatasetError
from trialrun.files import write_durably
from trialrun.images import ImageItem, ImageSet, printable
from trialrun.images.content import content_of
from trialrun.images.header import UndecodableError
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import model_folder
from trialrun.runs.kept import keep_within_limit
from trialrun.runs.plan import check_output
from trialrun.runs.sources import open_source
from trialrun.scoring import LABEL_COLUMN, probability_columns, score

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """How many images were scored into which file."""

    output: str
    num_images: int
    num_errors: int
    unknown_classes: Mapping[str, int] = field(default_factory=dict)  # images of each


@isolate_torch_state()
def load_model(model: str) -> ImageClassifier:
    """The network of MODEL (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, or damaged.
        TrackingError: MLflow does not have it.
    """
    return open_classifier(model_folder(model))


def score_data(model: str, data: str, output: str) -> ScoreResult:
    """Score every image of `data` with `model` and write the table to `output`.

    Raises:
        TrialrunError: As its kinds say; a bad image is no error but a row with its reason.
    """
    path = check_output(output)
    images = open_source(data)
    if not images.items:
        raise InvalidDatasetError(f"{data} holds no images", "Give a folder with images in it.")
    keep_within_limit()
    with isolate_torch_state():
        classifier = load_model(model)
        table = score_table(classifier, images)
    write_table(table, path)
    num_errors = int((table["error"] != "").sum())
    unknown = unknown_classes(images, classifier.classes)
    return ScoreResult(str(path), len(table), num_errors, unknown)


def unknown_classes(images: ImageSet, classes: Sequence[str]) -> dict[str, int]:
    """How many images have a label that a model of `classes` cannot give, by label."""
    return {name: count for name, count in images.counts().items() if name not in classes}


def told_unknown(unknown: Mapping[str, int]) -> list[str]:
    """A line a class that the model does not know."""
    return [
        f"{count} images are of {printable(name)}, which the model does not know"
        for name, count in unknown.items()
    ]


def score_table(classifier: ImageClassifier, images: ImageSet) -> "pd.DataFrame":
    """A row an image, in the set's order; probabilities in full precision."""
    import numpy as np
    import pandas as pd

    scores = list(score(classifier, contents(images)))
    missing = np.full(len(classifier.classes), np.nan, dtype=np.float32)
    known = [s.probabilities for s in scores]
    probabilities = np.stack([missing if row is None else row for row in known])
    labels = ["" if row is None else classifier.classes[row.argmax()] for row in known]
    columns = {"path": [printable(item.name) for item in images.items], "id": _ids(images.items)}
    if images.classes:
        columns["category"] = [item.label or "" for item in images.items]
    named = zip(probability_columns(classifier.classes), probabilities.T, strict=True)
    return pd.DataFrame(
        columns
        | {name: column.astype(np.float64) for name, column in named}
        | {LABEL_COLUMN: labels, "error": [s.error for s in scores]}
    )


def contents(images: ImageSet) -> Iterator[bytes | None]:
    """The bytes of every image file, in order; None where a file cannot be read."""
    for item in images.items:
        try:
            yield content_of(images.root, item.name)
        except UndecodableError:
            yield None


def _ids(items: tuple[ImageItem, ...]) -> list[int | str]:
    """Azure's own identifiers where there are some, else the rows' numbers."""
    return [row if item.id is None else item.id for row, item in enumerate(items)]


def write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a table as its file's ending says, whole or not at all."""
    if path.suffix.lower() == ".csv":
        text = table.to_csv(index=False, lineterminator="\n")
        write_durably(path, text.encode("utf-8", "backslashreplace"))
    else:
        write_durably(path, table.to_parquet(None, index=False))
