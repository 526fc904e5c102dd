"""Tables for notebooks."""

from trialrun.report.html_tables import format_cell, render_fields, render_table


def test_texts_of_a_table_are_escaped() -> None:
    """A title, a heading or a cell cannot inject markup."""
    html = render_table("<b>title", [["<script>", 1]], heading=["<i>", "&"])
    for text in ("<b>", "<script>", "<i>"):
        assert text not in html
    assert "&lt;script&gt;" in html
    assert "&amp;" in html


def test_fields_without_value_are_left_out() -> None:
    """None is no value; zero is one."""
    html = render_fields("run", {"model": None, "errors": 0})
    assert "model" not in html
    assert "errors" in html


def test_numbers_are_rounded() -> None:
    """A float has four significant digits, also inside a mapping; infinity stays a word."""
    assert format_cell(0.123456) == "0.1235"
    assert format_cell({"loss": 0.123456, "epoch": 3}) == "loss=0.1235, epoch=3"
    assert format_cell(float("inf")) == "inf"
