"""Records and the lines of a journal."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.tracking.records import (
    Record,
    build_inputs,
    format_line,
    make_inputs,
    make_metrics,
    make_params,
    make_tags,
    parse_line,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
RECORDS = st.builds(Record, st.text(), st.dictionaries(st.text(), JSON_VALUES, max_size=4))


@given(number=st.integers(min_value=1), record=RECORDS)
def test_line_round_trip(number: int, record: Record) -> None:
    """A line holds one record, without a line break inside, whatever its texts contain."""
    line = format_line(number, record)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n")
    assert parse_line(line[:-1]) == (number, record)


@given(record=RECORDS, data=st.data())
def test_changed_line_is_detected(record: Record, data: Any) -> None:
    """Any changed byte is an error."""
    line = bytearray(format_line(7, record)[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        parse_line(bytes(line))


def test_metrics_that_are_no_numbers_keep_their_values() -> None:
    """NaN and infinity survive, as they do in MLflow."""
    (record,) = make_metrics({"a": float("nan"), "b": float("inf")}, 1, 2)
    _, parsed = parse_line(format_line(1, record)[:-1])
    assert math.isnan(parsed.values["metrics"]["a"])
    assert parsed.values["metrics"]["b"] == math.inf


def test_records_keep_the_limits_of_mlflow() -> None:
    """At most 100 parameters and tags and 1000 metrics are in one record; texts are cut."""
    params = list(make_params({f"p{number}": "x" * 7000 for number in range(150)}))
    assert [len(record.values["params"]) for record in params] == [100, 50]
    assert {len(text) for text in params[0].values["params"].values()} == {6000}
    tags = list(make_tags({f"t{number}": "x" * 9000 for number in range(150)}))
    assert [len(record.values["tags"]) for record in tags] == [100, 50]
    metrics = list(make_metrics({f"m{number}": 1 for number in range(1500)}, 3, 4))
    assert [len(record.values["metrics"]) for record in metrics] == [1000, 500]


def test_datasets_round_trip() -> None:
    """A record of inputs gives the same datasets back."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset("train", "abc", "local", '{"uri": "é"}', "{}", None),
            [InputTag("mlflow.data.context", "training")],
        )
    ]
    _, parsed = parse_line(format_line(1, make_inputs(inputs))[:-1])
    assert [item.to_dictionary() for item in build_inputs(parsed)] == [
        item.to_dictionary() for item in inputs
    ]
