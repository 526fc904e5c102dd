"""Whether a training repeats another: histories held together, and records read back."""

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
    """The original with one loss multiplied."""
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
def test_a_repetition_is_judged_by_epoch(
    again: dict[str, dict[int, float]], verdict: str, since: int | None
) -> None:
    """Identical, within tolerance, or different, and since which epoch."""
    found = compare_histories(ORIGINAL, again, tolerance=1e-3)
    assert (found.verdict, found.since_epoch) == (verdict, since)


@given(st.text(min_size=1))
def test_a_quoted_parameter_is_read_back(text: str) -> None:
    """What `mlflow run` quoted for the shell comes back as it was typed."""
    assert unquote_param(shlex.quote(text)) == text


@pytest.mark.parametrize("text", ["a b", "it's", "0.001", '"half'])
def test_an_unquoted_parameter_stays(text: str) -> None:
    """What was never quoted is left alone."""
    assert unquote_param(text) == text


def test_a_switch_may_stand_alone() -> None:
    """`--strict` is `--strict true`; a value that is given is kept."""
    assert commands.app is not None  # declaring the commands gathers their switches
    line = ["train", "--strict", "--epochs", "1"]
    assert add_switch_values(line) == ["train", "--strict", "true", "--epochs", "1"]
    assert add_switch_values(["train", "--strict"]) == ["train", "--strict", "true"]
    assert add_switch_values(["train", "--strict", "false"]) == ["train", "--strict", "false"]


def test_names_bring_no_markup_into_a_page() -> None:
    """A run called like a tag is shown, not interpreted."""
    text = render_page("<b>", [Section("t", ("<script>",), [("<img>",)])], None)
    assert "<script>" not in text
    assert "&lt;img&gt;" in text
