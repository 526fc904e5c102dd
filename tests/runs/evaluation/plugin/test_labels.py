"""Labels and predictions of data frames, as names of classes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trialrun.errors import InvalidDatasetError
from trialrun.runs.evaluation.plugin.labels import name_labels, parse_answers, read_classes
from trialrun.serving.foreign.outputs import OutputError

CLASSES = ("cat", "dog")


@pytest.mark.parametrize(
    ("values", "declared", "names"),
    [
        (["dog", "cat"], CLASSES, ["dog", "cat"]),
        (np.array([1, 0]), CLASSES, ["dog", "cat"]),
        (np.array([1.0, 0.0]), None, ["1", "0"]),
        (np.array([1, 0]), ("1", "0"), ["1", "0"]),
        (np.array([True, False]), None, ["True", "False"]),
        ([1, 7], CLASSES, ["1", "7"]),
    ],
)
def test_numbers_are_names_unless_they_are_numbers_of_classes(
    values: Any, declared: tuple[str, ...] | None, names: list[str]
) -> None:
    """3, 3.0 and "3" are one label; the index of a declared class is that class."""
    assert name_labels(values, declared) == names


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_missing_label_is_refused(missing: object) -> None:
    """The row is named."""
    with pytest.raises(InvalidDatasetError, match="row 1 has no label"):
        name_labels(["cat", missing], CLASSES)


@pytest.mark.parametrize(
    "output",
    [
        ["dog", "cat"],
        np.array([1, 0]),
        pd.Series(["dog", "cat"]),
        pd.DataFrame({"prediction": ["dog", "cat"]}),
        pd.DataFrame({"prediction": ["dog", "cat"], "seconds": [0.1, 0.2]}),
    ],
)
def test_labels_are_read_from_any_column(output: Any) -> None:
    """One column, or the named one of several, has the labels."""
    answers = parse_answers(output, 2, CLASSES, "prediction")
    assert [answers.classes[row.argmax()] for row in answers.probabilities] == ["dog", "cat"]
    assert not answers.has_probabilities


def test_named_column_does_not_hide_probabilities() -> None:
    """The columns of trialrun's models are used with the column of labels, too."""
    output = pd.DataFrame(
        {
            "Scored Probabilities_cat": [0.3, 0.6],
            "Scored Probabilities_dog": [0.7, 0.4],
            "Scored Labels": ["dog", "cat"],
        }
    )
    answers = parse_answers(output, 2, None, "Scored Labels")
    assert answers.has_probabilities
    assert answers.classes == CLASSES


def test_numbers_between_whole_ones_are_not_labels() -> None:
    """They may be probabilities of one of two classes."""
    with pytest.raises(OutputError, match="type float64"):
        parse_answers(np.array([0.2, 0.9]), 2, CLASSES, None)


@pytest.mark.parametrize(
    ("metadata", "classes"),
    [({"classes": ["a", "b"]}, ("a", "b")), ({"classes": 3}, None), (None, None)],
)
def test_classes_are_those_of_the_metadata(metadata: Any, classes: Any) -> None:
    """A function has none."""
    model = SimpleNamespace(metadata=SimpleNamespace(metadata=metadata))
    assert read_classes(model) == classes
    assert read_classes(lambda: None) is None
