"""A self-contained HTML page with tables and one picture."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; display: block; overflow-x: auto; margin-bottom: 2rem }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #ddd;
         vertical-align: top }
th { border-bottom: 2px solid #999 }
img { max-width: 100% }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a table, or with `text` if the table has no rows."""

    title: str
    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""


def render_page(title: str, sections: Sequence[Section], picture: bytes | None) -> str:
    """Return the document; all texts are escaped, so that names cannot inject markup."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts.append(_render_table(section) if section.rows else f"<p>{escape(section.text)}</p>")
    if picture is not None:
        encoded = base64.b64encode(picture).decode("ascii")
        parts.append(f'<h2>Curves</h2><img alt="curves" src="data:image/png;base64,{encoded}">')
    parts.append("</body></html>\n")
    return "\n".join(parts)


def _render_table(section: Section) -> str:
    heading = "".join(f"<th>{escape(name)}</th>" for name in section.heading)
    rows = (
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in section.rows
    )
    return f"<table><tr>{heading}</tr>\n" + "\n".join(rows) + "\n</table>"
