"""Scores all images of a source into a table of class probabilities, as CSV or Parquet."""

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
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.open import open_network
from trialrun.scoring.pipeline import score_images
from trialrun.scoring.scores import LABEL_COLUMN, probability_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The file of scores, and the numbers of images and errors in it."""

    output: str
    num_images: int
    num_errors: int
    unknown_classes: Mapping[str, int] = field(default_factory=dict)  # images per class
    notes: tuple[str, ...] = ()  # which engine computed, if the model names one


@isolate_torch_state()
def load_model(model: str) -> ImageClassifier:
    """Load a model (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, or damaged.
        TrackingError: MLflow does not have the model.
    """
    return open_classifier(find_model_folder(model))


def score_data(model: str, data: str, output: str, values: Mapping[str, Any]) -> ScoreResult:
    """Score every image of `data` with `model` and write the table to `output`.

    Raises:
        TrialrunError: Settings, model or data cannot be used (see its subclasses). An unreadable
            image raises nothing: its row contains the reason.
    """
    config = build_config(ScoreConfig, values)
    path = check_output(output)
    device = find_device(config.device)
    images = open_source(data)
    if not images.items:
        raise InvalidDatasetError(f"{data} contains no images", "Give a folder with images.")
    enforce_cache_limit()
    notes: list[str] = []
    with isolate_torch_state():
        network = open_network(find_model_folder(model), device, notes.append)
        table = build_score_table(network, images)
    _write_table(table, path)
    num_errors = int((table["error"] != "").sum())
    unknown_classes = count_unknown_classes(images, network.classes)
    return ScoreResult(str(path), len(table), num_errors, unknown_classes, tuple(notes))


def count_unknown_classes(images: ImageSet, classes: Sequence[str]) -> dict[str, int]:
    """Count the images per label that is not among the `classes` of a model."""
    return {name: count for name, count in images.count_classes().items() if name not in classes}


def describe_unknown_classes(unknown_classes: Mapping[str, int]) -> list[str]:
    """Return one line per class that the model does not know."""
    return [
        f"{count} images are of class {make_printable(name)}, which the model does not know"
        for name, count in unknown_classes.items()
    ]


def build_score_table(network: ScoringNetwork, images: ImageSet) -> "pd.DataFrame":
    """Return one row per image, in the set's order, with probabilities in full precision."""
    import numpy as np
    import pandas as pd

    scores = list(score_images(network, read_contents(images)))
    missing = np.full(len(network.classes), np.nan, dtype=np.float32)
    rows = [score.probabilities for score in scores]
    probabilities = np.stack([missing if row is None else row for row in rows])
    labels = ["" if row is None else network.classes[row.argmax()] for row in rows]
    columns: dict[str, Any] = {"path": _make_text_column(item.name for item in images.items)}
    columns["id"] = _build_ids(images.items)
    if images.classes:
        columns["category"] = _make_text_column(item.label or "" for item in images.items)
    for name, column in zip(probability_columns(network.classes), probabilities.T, strict=True):
        columns[escape_non_utf8(name)] = column.astype(np.float64)
    columns |= {
        LABEL_COLUMN: _make_text_column(labels),
        "error": _make_text_column(score.error for score in scores),
    }
    return pd.DataFrame(columns)


def _make_text_column(values: Iterable[str | int]) -> "pd.Series[Any]":
    """Return a column of Python objects: pandas' own strings must be valid UTF-8."""
    import pandas as pd

    return pd.Series(list(values), dtype=object)


def read_contents(images: ImageSet) -> Iterator[bytes | None]:
    """Yield the bytes of every image file, in order; None for a file that cannot be read."""
    for item in images.items:
        try:
            yield read_file(images.root, item.name)
        except UndecodableError:
            yield None


def _build_ids(items: tuple[ImageItem, ...]) -> "list[int | str] | pd.Series[Any]":
    """Return Azure's identifiers if there are any, else the row numbers."""
    ids = [row if item.id is None else item.id for row, item in enumerate(items)]
    return _make_text_column(ids) if any(isinstance(item_id, str) for item_id in ids) else ids


def _write_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a table as CSV or Parquet, by the suffix of `path`; never leave a partial file.

    CSV keeps the bytes that names have on disk. Parquet is UTF-8 only: other bytes are escaped.
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
