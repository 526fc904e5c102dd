"""A self-contained HTML page with tables and pictures."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #222; background: #fff }
table { border-collapse: collapse; display: block; overflow-x: auto; margin-bottom: 2rem }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #ddd;
         vertical-align: top }
th { border-bottom: 2px solid #999 }
img { max-width: 100%; display: block; margin-bottom: 1rem }
td img { margin: 0 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b }
  th, td { border-color: #444 } img { background: #fff } }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file and what it shows, for readers who do not see it."""

    description: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with a note, a table (or `text` if it has no rows) and pictures.

    `thumbnails`, one PNG file per row, are the first column if there are any.
    """

    title: str
    heading: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: str = ""
    pictures: Sequence[Picture] = ()
    note: str = ""
    thumbnails: Sequence[bytes] = ()


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Return the document; all texts are escaped, so that names cannot inject markup."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(part for section in sections for part in _render_section(section)),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _render_section(section: Section) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    if section.note:
        yield f"<p>{escape(section.note)}</p>"
    if section.rows:
        yield _render_table(section)
    elif section.text:
        yield f"<p>{escape(section.text)}</p>"
    for picture in section.pictures:
        yield _render_image(picture.content, picture.description)


def _render_image(content: bytes, description: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{encoded}">'


def _render_table(section: Section) -> str:
    heading = "".join(f"<th>{escape(name)}</th>" for name in section.heading)
    images = [f"<td>{_render_image(content, '')}</td>" for content in section.thumbnails]
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in section.rows]
    rows = map("<tr>{}{}</tr>".format, images or [""] * len(cells), cells)
    return f"<table><tr>{heading}</tr>\n" + "\n".join(rows) + "\n</table>"
