"""Tests of comparing and reproducing runs: metric histories, quoted parameters and pages."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.cli import commands
from trialrun.cli.flags import add_switch_values
from trialrun.report.histories import compare_histories
from trialrun.report.page import Section, render_page
from trialrun.runs.inspection.run_reader import unquote_param

ORIGINAL = {"valid_loss": {1: 0.9, 2: 0.5, 3: 0.3}, "valid_accuracy": {1: 0.6, 2: 0.8, 3: 0.9}}


def changed(epoch: int, factor: float) -> dict[str, dict[int, float]]:
    """Return the original histories with one loss multiplied by `factor`."""
    losses = {**ORIGINAL["valid_loss"], epoch: ORIGINAL["valid_loss"][epoch] * factor}
    return {**ORIGINAL, "valid_loss": losses}


@pytest.mark.parametrize(
    ("again", "verdict", "since"),
    [
        (ORIGINAL, "identical", None),
        (changed(2, 1 + 1e-6), "within tolerance", 2),
        (changed(3, 1.1), "different", 3),
        (changed(1, float("nan")), "different", 1),
        ({**ORIGINAL, "valid_loss": {1: 0.9, 2: 0.5}}, "different", 3),
        ({}, "different", 1),
    ],
)
def test_histories_are_compared_by_epoch(
    again: dict[str, dict[int, float]], verdict: str, since: int | None
) -> None:
    """The verdict and the first differing epoch match the change."""
    found = compare_histories(ORIGINAL, again, tolerance=1e-3)
    assert (found.verdict, found.since_epoch) == (verdict, since)


def test_histories_without_an_epoch_have_no_verdict() -> None:
    """Nothing to compare is an error of the caller, not identical."""
    with pytest.raises(ValueError, match="no epochs"):
        compare_histories({"valid_loss": {}}, {}, tolerance=1e-3)


@given(st.text(min_size=1))
def test_quoted_parameter_is_unquoted(text: str) -> None:
    """A parameter that `mlflow run` quoted for the shell is unquoted."""
    assert unquote_param(shlex.quote(text)) == text


@pytest.mark.parametrize("text", ["a b", "it's", "0.001", '"half'])
def test_unquoted_parameter_is_unchanged(text: str) -> None:
    """A parameter that was not quoted is unchanged."""
    assert unquote_param(text) == text


def test_switch_without_value_is_true() -> None:
    """`--strict` means `--strict true`; an explicit value is unchanged."""
    assert commands.app is not None  # importing the commands registers their switches
    line = ["train", "--strict", "--epochs", "1"]
    assert add_switch_values(line) == ["train", "--strict", "true", "--epochs", "1"]
    assert add_switch_values(["train", "--strict"]) == ["train", "--strict", "true"]
    assert add_switch_values(["train", "--strict", "false"]) == ["train", "--strict", "false"]


def test_page_escapes_names() -> None:
    """Names that look like HTML tags are escaped."""
    text = render_page("<b>", [Section("t", ("<script>",), [("<img>",)])])
    assert "<script>" not in text
    assert "&lt;img&gt;" in text
