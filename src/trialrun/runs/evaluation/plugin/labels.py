"""Labels and predictions of a data frame, as names of classes.

Targets and predictions are names, numbers of classes, or other numbers, which become names.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from trialrun.errors import InvalidDatasetError
from trialrun.scoring.scores import probability_columns
from trialrun.serving.foreign.metadata import CLASSES_KEY
from trialrun.serving.foreign.outputs import BatchAnswers, parse_output

_PREFIX = probability_columns([""])[0]


def read_classes(model: Any) -> tuple[str, ...] | None:
    """Return the classes that the metadata of a pyfunc model declares, in index order."""
    metadata = getattr(getattr(model, "metadata", None), "metadata", None) or {}
    classes = metadata.get(CLASSES_KEY)
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return tuple(classes) if is_list and classes else None


def name_labels(values: Iterable[Any], declared: Sequence[str] | None) -> list[str]:
    """Return the names of the classes that `values` stand for.

    A number is the name of a class if there is one of that name, else the index of a declared one.

    Raises:
        InvalidDatasetError: A value is missing.
    """
    names = [_name_label(value) for value in values]
    if missing := [row for row, name in enumerate(names) if name is None]:
        raise InvalidDatasetError(
            f"row {missing[0]} has no label ({len(missing)} rows of {len(names)})",
            "Leave the rows without a label out of the data.",
        )
    labels = [name for name in names if name is not None]
    indices = {str(index): name for index, name in enumerate(declared or ())}
    if not set(labels) & set(declared or ()) and set(labels) <= indices.keys():
        return [indices[label] for label in labels]
    return labels


def _name_label(value: Any) -> str | None:
    """Return the label as text, the same for 3, 3.0 and "3"; None if it is missing."""
    import pandas as pd

    if pd.isna(value) is True:
        return None
    is_float = isinstance(value, float | np.floating)
    return str(int(value)) if is_float and _is_whole(value) else str(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) or float(value).is_integer()


def parse_answers(
    output: Any, num_images: int, declared: Sequence[str] | None, column: str | None
) -> BatchAnswers:
    """Return the class probabilities in a model's output, or its labels as certain predictions.

    `column` names the column of labels of a DataFrame without probabilities.

    Raises:
        OutputError: The output cannot be used.
        InvalidDatasetError: A prediction is missing.
    """
    import pandas as pd

    if isinstance(output, pd.DataFrame):
        has_scores = any(str(name).startswith(_PREFIX) for name in output.columns)
        if column in output.columns and not has_scores:
            output = output[column]
        elif len(output.columns) == 1:
            output = output.iloc[:, 0]
    if _has_labels(output) and len(output):
        output = name_labels(output, declared)
    return parse_output(output, num_images, declared)


def _has_labels(output: Any) -> bool:
    """Whether the output is a series of one text or whole number per row.

    Other numbers may be probabilities of one of two classes.
    """
    import pandas as pd

    if isinstance(output, np.ndarray) and output.ndim != 1:
        return False
    is_series = isinstance(output, pd.Series | np.ndarray | list | tuple)
    return is_series and all(
        isinstance(value, str | np.bool_) or (isinstance(value, Real) and _is_whole(value))
        for value in output
    )
