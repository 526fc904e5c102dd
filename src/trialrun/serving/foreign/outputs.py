"""Class probabilities from the values that an MLflow model's `predict` returned.

An index is mapped to a class only by the names in the model's metadata. Values that are not
probabilities, such as logits, are refused. Array letters: N images, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialrun.scoring.scores import LABEL_COLUMN, probability_columns
from trialrun.serving.foreign.metadata import CLASSES_KEY

if TYPE_CHECKING:
    import pandas as pd

_PREFIX = probability_columns([""])[0]
_MAX_SUM_ERROR = 1e-3
_MAX_TIE_DIFFERENCE = 1e-6
_FORMS_HINT = (
    f"Let predict return one label per image, probabilities in columns named by the classes or "
    f"{_PREFIX}<class>, or a 2-D array of probabilities."
)
_NAMES_HINT = (
    f'Log the model with metadata={{"{CLASSES_KEY}": ["cat", "dog"]}}, in index order, or let '
    "predict return labels."
)
_PROBABILITIES_HINT = (
    "Let predict return the probabilities of all classes (softmax of logits; top_k=None in a "
    "transformers pipeline), or labels only."
)


class OutputError(ValueError):
    """The output cannot be read as classes or probabilities; `hint` says what to do."""

    def __init__(self, message: str, hint: str = _FORMS_HINT) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class BatchAnswers:
    """A batch's (N, C) float32 probabilities; one-hot and not `has_probabilities` for labels.

    `classes` are all classes of the model if `is_complete`, else those of this batch's answers.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    has_probabilities: bool
    is_complete: bool

    def take(self, num_images: int) -> "BatchAnswers":
        """Return the answers to the first images."""
        return replace(self, probabilities=self.probabilities[:num_images])


def parse_output(output: Any, num_images: int, declared: Sequence[str] | None) -> BatchAnswers:
    """Return the answers to `num_images` images; `declared` are the classes in the metadata.

    Raises:
        OutputError: Another number of rows, an unknown form, indices without class names, a class
            that is not declared, or values that are not probabilities.
    """
    import pandas as pd

    rows = _extract_rows(output)
    if len(rows) != num_images:
        raise OutputError(
            f"returns {len(rows)} rows for {num_images} images",
            "Let predict return one row per image.",
        )
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        rows = _convert_records(rows)
    if isinstance(rows, pd.DataFrame):
        return _parse_frame(rows, declared)
    return _parse_values(rows, declared)


def _extract_rows(output: Any) -> Any:
    """Return a DataFrame, an array or a list with one row per image."""
    import pandas as pd

    if isinstance(output, Mapping) and len(output) == 1:  # ONNX: {name of the output: array}
        output = next(iter(output.values()))
    if isinstance(output, torch.Tensor):
        output = output.detach().cpu().numpy()
    if isinstance(output, pd.DataFrame | pd.Series):
        _check_row_order(output.index)
        return output if isinstance(output, pd.DataFrame) else output.to_numpy()
    if isinstance(output, list | tuple):
        return list(output)
    if isinstance(output, np.ndarray) and output.ndim:
        return output
    raise OutputError(f"returns {type(output).__name__}, not one row per image")


def _check_row_order(index: "pd.Index[Any]") -> None:
    """Check that an index of row numbers is in order: a sorted table would mix up the images."""
    numbers = np.arange(len(index))
    if index.dtype.kind not in "iu" or np.array_equal(index, numbers):
        return
    if np.array_equal(np.sort(index.to_numpy()), numbers):
        raise OutputError(
            "returns its rows in another order than the images",
            "Let predict return one row per image, in the order of its input.",
        )


def _convert_records(rows: list[Mapping[str, Any]]) -> Any:
    """Return lists of labels with scores, or a DataFrame with a column per key."""
    import pandas as pd

    return [[row] for row in rows] if _is_scored_label(rows[0]) else pd.DataFrame(rows)


def _is_scored_label(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) == {"label", "score"}


def _parse_frame(frame: "pd.DataFrame", declared: Sequence[str] | None) -> BatchAnswers:
    columns = list(frame.columns)
    if not columns:
        raise OutputError("returns a table with no columns")
    if len(set(columns)) != len(columns):
        raise OutputError("returns a table with several columns of one name")
    if classes := [name[len(_PREFIX) :] for name in map(str, columns) if name.startswith(_PREFIX)]:
        return _parse_scored_columns(frame, classes, declared)
    if LABEL_COLUMN in columns:
        return _parse_labels(frame[LABEL_COLUMN].tolist(), declared)
    if len(columns) == 1 or _is_scored_label(frame.iloc[0, 0]):
        return _parse_values(frame.to_numpy(), declared)
    if declared and set(declared) <= set(columns):  # other columns may hold anything
        return _parse_columns(frame, declared, declared)
    names = ", ".join(map(str, columns))
    if not all(dtype.kind in "iuf" for dtype in frame.dtypes):
        raise OutputError(f"returns a table whose columns are not all probabilities ({names})")
    if not all(isinstance(name, str) for name in columns):
        return _parse_values(frame.to_numpy(), declared)
    return _parse_columns(frame, columns, declared)


def _parse_scored_columns(
    frame: "pd.DataFrame", classes: Sequence[str], declared: Sequence[str] | None
) -> BatchAnswers:
    """Parse the columns of trialrun's own models; the labels must agree with the probabilities."""
    scored = frame[probability_columns(classes)].set_axis(list(classes), axis=1)
    answers = _parse_columns(scored, classes, declared)
    if LABEL_COLUMN in frame:
        labels = _parse_labels(frame[LABEL_COLUMN].tolist(), answers.classes)
        of_label = (answers.probabilities * labels.probabilities).sum(axis=1)
        if (of_label < answers.probabilities.max(axis=1) - _MAX_TIE_DIFFERENCE).any():
            raise OutputError(
                f"returns {LABEL_COLUMN} that are not the classes of the highest probability",
                f"Let predict return either {LABEL_COLUMN} or probabilities.",
            )
    return answers


def _parse_columns(
    frame: "pd.DataFrame", classes: Sequence[str], declared: Sequence[str] | None
) -> BatchAnswers:
    if declared is not None and set(classes) != set(declared):
        raise OutputError(
            f"returns the classes {', '.join(classes)}, but its metadata has {', '.join(declared)}",
            _NAMES_HINT,
        )
    names = tuple(declared or classes)
    return _check_matrix(frame[list(names)].to_numpy(), names)


def _parse_values(rows: Any, declared: Sequence[str] | None) -> BatchAnswers:
    """Parse an array or list: labels, class indices, probabilities, or labels with scores."""
    scored = rows.tolist() if isinstance(rows, np.ndarray) and rows.dtype == object else rows
    if isinstance(scored, list) and _has_scored_labels(scored):
        return _parse_scored_labels(scored, declared)
    try:
        # Without dtype=object, NumPy would turn NaN and numbers beside text into text.
        values = np.array(rows, dtype=object if _has_text(rows) else None)
    except ValueError as error:  # rows of several lengths
        raise OutputError("returns rows of several lengths") from error
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        return _parse_matrix(values, declared)
    if values.ndim == 1 and values.dtype.kind in "iu":
        return _parse_indices(values, declared)
    if values.ndim == 1 and values.dtype.kind in "UO":
        return _parse_labels(values.tolist(), declared)
    raise OutputError(f"returns values of shape {values.shape} and type {values.dtype}")


def _has_text(rows: Any) -> bool:
    if isinstance(rows, np.ndarray):
        return bool(rows.dtype == object)
    cells = [cell for row in rows for cell in (row if isinstance(row, list | tuple) else [row])]
    return any(isinstance(cell, str) for cell in cells)


def _parse_labels(labels: Sequence[Any], declared: Sequence[str] | None) -> BatchAnswers:
    if wrong := [label for label in labels if not isinstance(label, str)]:
        raise OutputError(f"returns {wrong[0]!r} as a label, which is not text", _NAMES_HINT)
    classes = tuple(declared or sorted(set(labels)))
    if unknown := set(labels) - set(classes):
        raise OutputError(
            f"returns the label {min(unknown)}, which is not among its classes", _NAMES_HINT
        )
    indices = np.array([classes.index(label) for label in labels])
    return _encode_one_hot(indices, classes, is_complete=declared is not None)


def _parse_indices(indices: NDArray[Any], declared: Sequence[str] | None) -> BatchAnswers:
    if declared is None:
        raise OutputError("returns numbers of classes, but its metadata has no names", _NAMES_HINT)
    if indices.min() < 0 or indices.max() >= len(declared):
        wrong = int(indices.min() if indices.min() < 0 else indices.max())
        raise OutputError(f"returns the class number {wrong} of {len(declared)}", _NAMES_HINT)
    return _encode_one_hot(indices, tuple(declared), is_complete=True)


def _encode_one_hot(
    indices: NDArray[Any], classes: tuple[str, ...], *, is_complete: bool
) -> BatchAnswers:
    one_hot = np.zeros((len(indices), len(classes)), dtype=np.float32)
    one_hot[np.arange(len(indices)), indices] = 1
    return BatchAnswers(classes, one_hot, has_probabilities=False, is_complete=is_complete)


def _parse_matrix(values: NDArray[Any], declared: Sequence[str] | None) -> BatchAnswers:
    if declared is None:
        raise OutputError(
            f"returns {values.shape[1]} values per image, but its metadata has no class names",
            _NAMES_HINT,
        )
    if values.shape[1] != len(declared):
        raise OutputError(
            f"returns {values.shape[1]} values per image, but its metadata names "
            f"{len(declared)} classes",
            _NAMES_HINT,
        )
    return _check_matrix(values, tuple(declared))


def _check_matrix(
    values: NDArray[Any], classes: tuple[str, ...], *, is_complete: bool = True
) -> BatchAnswers:
    """Check that the rows are probabilities; integers can only be one-hot labels."""
    if values.dtype.kind not in "iuf":
        raise OutputError("returns values that are not numbers")
    probabilities = values.astype(np.float64)
    sums = probabilities.sum(axis=1)
    if not np.isfinite(probabilities).all():
        raise OutputError("returns NaN or infinite values", _PROBABILITIES_HINT)
    if (lowest := probabilities.min()) < 0:
        raise OutputError(
            f"returns negative values ({lowest:.4g}), not probabilities", _PROBABILITIES_HINT
        )
    if (errors := np.abs(sums - 1)).max() > _MAX_SUM_ERROR:
        raise OutputError(
            f"returns values of an image that sum to {sums[errors.argmax()]:.4g}, not to 1",
            _PROBABILITIES_HINT,
        )
    return BatchAnswers(
        classes,
        probabilities.astype(np.float32),
        has_probabilities=values.dtype.kind == "f",
        is_complete=is_complete,
    )


def _has_scored_labels(rows: list[Any]) -> bool:
    return all(
        isinstance(row, list) and len(row) > 0 and all(map(_is_scored_label, row)) for row in rows
    )


def _parse_scored_labels(rows: list[Any], declared: Sequence[str] | None) -> BatchAnswers:
    """Parse rows such as [{"label": "cat", "score": 0.9}, ...], as transformers returns them."""
    names = {str(entry["label"]) for row in rows for entry in row}
    classes = tuple(declared or sorted(names))
    if unknown := names - set(classes):
        raise OutputError(
            f"returns the label {min(unknown)}, which is not among its classes", _NAMES_HINT
        )
    rows_by_class = [{str(entry["label"]): entry["score"] for entry in row} for row in rows]
    values = np.array([[row.get(name, 0.0) for name in classes] for row in rows_by_class])
    return _check_matrix(values, classes, is_complete=declared is not None)
