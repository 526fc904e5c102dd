"""Bulk scoring: every image of a source to a row of probabilities, as CSV or Parquet."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trialrun.config import build_config
from trialrun.config.score import ScoreConfig
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidDatasetError
from trialrun.files import write_durably
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images import ImageItem, ImageSet, escape_non_utf8, make_printable
from trialrun.images.decoding.file_io import read_file
from trialrun.images.decoding.header import UndecodableError
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import find_model_folder
from trialrun.runs.datasets.outputs import check_output
from trialrun.runs.datasets.sources import open_source
from trialrun.runs.evaluation.tables import choose_quoting
from trialrun.scoring import LABEL_COLUMN, move_classifier, probability_columns, score_images

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
    return open_classifier(find_model_folder(model))


def score_data(model: str, data: str, output: str, values: Mapping[str, Any]) -> ScoreResult:
    """Score every image of `data` with `model` and write the table to `output`.

    Raises:
        TrialrunError: As its kinds say; a bad image is no error but a row with its reason.
    """
    config = build_config(ScoreConfig, values)
    path = check_output(output)
    device = find_device(config.device)
    images = open_source(data)
    if not images.items:
        raise InvalidDatasetError(f"{data} holds no images", "Give a folder with images in it.")
    enforce_cache_limit()
    with isolate_torch_state():
        classifier = move_classifier(load_model(model), device)
        table = build_score_table(classifier, images)
    _write_table(table, path)
    num_errors = int((table["error"] != "").sum())
    unknown = count_unknown_classes(images, classifier.classes)
    return ScoreResult(str(path), len(table), num_errors, unknown)


def count_unknown_classes(images: ImageSet, classes: Sequence[str]) -> dict[str, int]:
    """How many images have a label that a model of `classes` cannot give, by label."""
    return {name: count for name, count in images.count_classes().items() if name not in classes}


def describe_unknown_classes(unknown: Mapping[str, int]) -> list[str]:
    """A line a class that the model does not know."""
    return [
        f"{count} images are of {make_printable(name)}, which the model does not know"
        for name, count in unknown.items()
    ]


def build_score_table(classifier: ImageClassifier, images: ImageSet) -> "pd.DataFrame":
    """A row an image, in the set's order; probabilities in full precision."""
    import numpy as np
    import pandas as pd

    scores = list(score_images(classifier, read_contents(images)))
    missing = np.full(len(classifier.classes), np.nan, dtype=np.float32)
    known = [s.probabilities for s in scores]
    probabilities = np.stack([missing if row is None else row for row in known])
    labels = ["" if row is None else classifier.classes[row.argmax()] for row in known]
    columns: dict[str, Any] = {"path": _make_text_column(item.name for item in images.items)}
    columns["id"] = _build_ids(images.items)
    if images.classes:
        columns["category"] = _make_text_column(item.label or "" for item in images.items)
    for name, column in zip(probability_columns(classifier.classes), probabilities.T, strict=True):
        columns[escape_non_utf8(name)] = column.astype(np.float64)
    columns |= {
        LABEL_COLUMN: _make_text_column(labels),
        "error": _make_text_column(s.error for s in scores),
    }
    return pd.DataFrame(columns)


def _make_text_column(values: Iterable[str | int]) -> "pd.Series[Any]":
    """A column of Python objects: pandas' own texts cannot hold bytes that are not UTF-8."""
    import pandas as pd

    return pd.Series(list(values), dtype=object)


def read_contents(images: ImageSet) -> Iterator[bytes | None]:
    """The bytes of every image file, in order; None where a file cannot be read."""
    for item in images.items:
        try:
            yield read_file(images.root, item.name)
        except UndecodableError:
            yield None


def _build_ids(items: tuple[ImageItem, ...]) -> "list[int | str] | pd.Series[Any]":
    """Azure's own identifiers where there are some, else the rows' numbers."""
    ids = [row if item.id is None else item.id for row, item in enumerate(items)]
    return _make_text_column(ids) if any(isinstance(each, str) for each in ids) else ids


def _write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a table as its file's ending says, whole or not at all.

    In CSV, names are the bytes that they are on disk. Parquet holds UTF-8 only, so that other bytes
    become escapes there.
    """
    if path.suffix.lower() == ".csv":
        text = table.to_csv(index=False, lineterminator="\n", quoting=_choose_quoting(table))
        write_durably(path, text.encode("utf-8", "surrogateescape"))
        return
    escaped = {name: table[name].map(_encode_utf8) for name in _text_columns(table)}
    write_durably(path, table.assign(**escaped).to_parquet(None, index=False))


def _choose_quoting(table: "pd.DataFrame") -> Literal[0, 2]:
    return choose_quoting(chain(table.columns, *(table[name] for name in _text_columns(table))))


def _text_columns(table: "pd.DataFrame") -> list[str]:
    return [str(name) for name in table if table[name].dtype == object]


def _encode_utf8(cell: object) -> object:
    return escape_non_utf8(cell) if isinstance(cell, str) else cell
