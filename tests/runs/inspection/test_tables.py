"""Comparisons and reproductions, as a notebook shows them."""

from trialrun.report.histories import HistoryComparison
from trialrun.runs.inspection.compare import ComparisonRow, RunComparison
from trialrun.runs.inspection.reproduction import Reproduction


def test_comparison_shows_the_tables_that_have_rows() -> None:
    """Tables without rows are left out; values are escaped."""
    compared = RunComparison(
        runs=("first", "second"),
        run_ids=("1", "2"),
        parameters=(ComparisonRow("model", ("<b>", "resnet18")),),
        metrics=(),
        outcome=(),
        data=(),
        environment=(),
        paired=(),
        histories={},
    )
    html = compared._repr_html_()
    assert html.count("<table>") == 1
    assert "Parameters that differ" in html
    assert "&lt;b&gt;" in html


def test_reproduction_shows_its_verdict() -> None:
    """The table has the verdict and whether the weights are the same."""
    reproduced = Reproduction(
        original_run_id="1" * 32,
        run_id="2" * 32,
        initial_weights_identical=True,
        notes=(),
        verdict="identical",
        since_epoch=None,
        weights_identical=True,
        original_weights_sha256="a",
        weights_sha256="a",
        tolerance=0.0,
        data_changes=(),
        differences={},
        history=HistoryComparison("identical", None, ()),
    )
    html = reproduced._repr_html_()
    assert "identical" in html
    assert "Repetition of " + "1" * 32 in html
    assert "notes" not in html
