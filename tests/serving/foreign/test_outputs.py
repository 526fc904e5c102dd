"""Every form of answer that `predict` may return, and those that are refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trialrun.serving.foreign.outputs import OutputError, parse_output

PAIRS = [[0.25, 0.75], [1.0, 0.0]]  # of the classes a and b
SCORES = [
    [{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}],
    [{"label": "a", "score": 1.0}, {"label": "b", "score": 0.0}],
]
SCORED = pd.DataFrame(PAIRS, columns=["Scored Probabilities_a", "Scored Probabilities_b"])
DECLARED = ("a", "b")


@pytest.mark.parametrize(
    ("output", "declared"),
    [
        (pd.DataFrame(PAIRS, columns=["a", "b"]), None),
        (pd.DataFrame(PAIRS, columns=["a", "b"]), DECLARED),
        (pd.DataFrame(PAIRS, columns=["a", "b"])[["b", "a"]], DECLARED),
        (pd.DataFrame(PAIRS, columns=["a", "b"]).assign(model="v1"), DECLARED),
        (pd.DataFrame(PAIRS, columns=["a", "b"], index=["x", "y"]), None),
        (SCORED, None),
        (SCORED.assign(**{"Scored Labels": ["b", "a"]}), None),
        (SCORED.assign(seconds=0.1), None),
        (pd.DataFrame(PAIRS), DECLARED),
        (np.array(PAIRS), DECLARED),
        (np.array(PAIRS, dtype=np.float32), DECLARED),
        (torch.tensor(PAIRS), DECLARED),
        (PAIRS, DECLARED),
        ({"probabilities": np.array(PAIRS)}, DECLARED),
        ([{"a": 0.25, "b": 0.75}, {"a": 1.0, "b": 0.0}], None),
        (SCORES, None),
        (pd.DataFrame(SCORES), None),
        (SCORES, DECLARED),
    ],
)
def test_probabilities(output: Any, declared: Sequence[str] | None) -> None:
    """Classes come from the columns or from the metadata; values are not changed."""
    answers = parse_output(output, 2, declared)
    assert answers.classes == DECLARED
    assert answers.probabilities.tolist() == PAIRS
    assert answers.probabilities.dtype == np.float32
    assert answers.has_probabilities


@pytest.mark.parametrize(
    ("output", "declared"),
    [
        (["b", "a"], None),
        (np.array(["b", "a"]), None),
        (np.array(["b", "a"], dtype=object), None),
        (np.array([["b"], ["a"]]), None),
        (pd.Series(["b", "a"]), None),
        (pd.Series(["b", "a"], dtype="category"), None),
        (pd.DataFrame({"prediction": ["b", "a"]}), None),
        (pd.DataFrame({"Scored Labels": ["b", "a"], "seconds": [0.1, 0.1]}), None),
        (["b", "a"], DECLARED),
        ([1, 0], DECLARED),
        (np.array([[1], [0]], dtype=np.int32), DECLARED),
        (pd.Series([1, 0]), DECLARED),
        (np.array([[0, 1], [1, 0]]), DECLARED),
    ],
)
def test_labels(output: Any, declared: Sequence[str] | None) -> None:
    """Labels and numbers of classes become one-hot rows without probabilities."""
    answers = parse_output(output, 2, declared)
    assert answers.classes == DECLARED
    assert answers.probabilities.tolist() == [[0, 1], [1, 0]]
    assert not answers.has_probabilities


@pytest.mark.parametrize(
    ("output", "declared", "message"),
    [
        ([1, 0], None, "numbers of classes, but its metadata has no names"),
        ([True, False], DECLARED, "type bool"),
        ([1, 2], DECLARED, "class number 2 of 2"),
        ([-1, 0], DECLARED, "class number -1 of 2"),
        ([0.0, 1.0], DECLARED, "type float64"),
        (np.array(PAIRS), None, "metadata has no class names"),
        (pd.DataFrame(PAIRS), None, "metadata has no class names"),
        (np.array(PAIRS), ("a", "b", "c"), "2 values per image, but its metadata names 3"),
        (pd.DataFrame(PAIRS, columns=["a", "b"]), ("a", "c"), "classes a, b, but"),
        (SCORED, ("a", "c"), "classes a, b, but"),
        (SCORED.assign(**{"Scored Labels": ["a", "a"]}), None, "not the classes of the highest"),
        (SCORED.assign(**{"Scored Labels": ["b", "c"]}), None, "label c"),
        (pd.DataFrame(PAIRS, columns=["a", "a"]), None, "several columns of one name"),
        (pd.DataFrame({"a": PAIRS[0], "b": ["x", "y"]}), None, "not all probabilities"),
        (pd.DataFrame(index=[0, 1]), None, "no columns"),
        (pd.DataFrame(PAIRS, columns=["a", "b"], index=[1, 0]), None, "another order"),
        (pd.Series(["a", "b"], index=[1, 0]), None, "another order"),
        (["a"], None, "1 rows for 2 images"),
        (["a", "c"], DECLARED, "label c"),
        (["a", None], None, "None as a label"),
        (["a", np.nan], None, "nan as a label"),
        ([["a"], [1]], None, "1 as a label"),
        (np.array(["a", 1.5], dtype=object), None, "1.5 as a label"),
        ([b"a", b"b"], None, "type |S1"),
        ([[0.5], [0.5, 0.5]], DECLARED, "several lengths"),
        ([[0.5, np.nan], [1, 0]], DECLARED, "NaN"),
        ([[np.inf, 0], [1, 0]], DECLARED, "infinite"),
        ([[-0.5, 1.5], [1, 0]], DECLARED, "negative values (-0.5)"),
        ([[0.5, 0.6], [1, 0]], DECLARED, "sum to 1.1"),
        ([[9.0, 7.0], [1, 0]], DECLARED, "sum to 16"),
        ([row[:1] for row in SCORES], None, "sum to 0.75"),
        ([[{"label": "a", "score": "x"}]] * 2, None, "not numbers"),
        ([["0.5", "0.5"], ["1", "0"]], DECLARED, "not numbers"),
        ([{"a": 1.0}, {"b": 1.0}], None, "NaN"),
        ("ab", None, "returns str"),
        (None, None, "returns NoneType"),
        (np.array(1), None, "returns ndarray"),
        (np.zeros((2, 2, 2)), DECLARED, "shape (2, 2, 2)"),
        ({"a": [1.0, 0.0], "b": [0.0, 1.0]}, None, "returns dict"),
    ],
)
def test_other_outputs_are_refused(
    output: Any, declared: Sequence[str] | None, message: str
) -> None:
    """Nothing is guessed; every refusal has a hint."""
    with pytest.raises(OutputError) as raised:
        parse_output(output, 2, declared)
    assert message in str(raised.value)
    assert raised.value.hint


def test_rounded_probabilities_are_accepted() -> None:
    """A sum may differ from 1 by up to 0.001."""
    rows = np.array([[0.3333, 0.3333, 0.3333], [0.3335, 0.3335, 0.3335]])
    assert parse_output(rows, 2, ("a", "b", "c")).has_probabilities
    with pytest.raises(OutputError, match="sum to"):
        parse_output(rows - 0.001, 2, ("a", "b", "c"))
