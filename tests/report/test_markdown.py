"""Escaped texts in Markdown."""

import pytest
from markdown_it import MarkdownIt

from trialrun.report.markdown import escape_markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a|b"),
        ("a\\|b", "a\\|b"),
        ("_a_ *b* `c` ~~d~~", "_a_ *b* `c` ~~d~~"),
        ("<b>&amp;</b>", "&lt;b&gt;&amp;amp;&lt;/b&gt;"),
        ("[x](y)", "[x](y)"),
        ("golden_retriever", "golden_retriever"),
        ("a\nb\r\u2028c", "a\\nb\\r\\u2028c"),
        ("caf\udce9", "caf\\xe9"),
    ],
)
def test_escaped_text_is_one_cell(text: str, shown: str) -> None:
    """A table shows the text as it is, in one cell; control characters are visible."""
    table = f"| a | b |\n|---|---|\n| {escape_markdown(text)} | end |"
    html = MarkdownIt().enable("table").render(table)
    assert f"<td>{shown}</td>\n<td>end</td>" in html
