"""Tests that the pages of the reference are complete."""

from scripts.metrics import EPOCH_METRICS, EVALUATION_METRICS
from scripts.reference import render_pages
from trialrun.config.promote import METRICS
from trialrun.config.search import METRIC_DIRECTIONS
from trialrun.report.abstention import ANSWERED_ERROR, COVERAGE

PAGES = render_pages()


def test_metrics_of_a_search_are_described() -> None:
    """The page of metrics has every metric that a search may optimize."""
    assert METRIC_DIRECTIONS.keys() <= EPOCH_METRICS.keys()


def test_metrics_of_an_evaluation_are_described() -> None:
    """The page of metrics has those that versions are compared by."""
    assert {*METRICS, COVERAGE, ANSWERED_ERROR} <= EVALUATION_METRICS.keys()


def test_commands_are_listed() -> None:
    """The page of commands has commands of groups and their flags."""
    assert "## trialrun data check" in PAGES["commands.md"]
    assert "`--max-class-drop`" in PAGES["commands.md"]


def test_errors_have_their_exit_codes() -> None:
    """The page of errors names each error with its exit code."""
    assert "| 6 | `StorageError` |" in PAGES["errors.md"]
    assert "| 75 |" in PAGES["errors.md"]


def test_settings_are_not_repeated_per_function() -> None:
    """The page of functions links to the settings instead of listing them."""
    assert "trialrun.train(**settings) -> TrainResult" in PAGES["python.md"]
    assert "Settings:" not in PAGES["python.md"]
