"""Small HTML tables for notebooks; all texts are escaped, so that names cannot inject markup."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_LEFT = "text-align: left"  # notebooks align to the right


def render_table(
    title: str, rows: Sequence[Sequence[object]], *, heading: Sequence[str] = ()
) -> str:
    """Return a table with a title; `heading` names its columns."""
    parts = [f"<caption>{escape(title)}</caption>"] if title else []
    if heading:
        parts.append(f"<thead><tr>{_render_cells('th', heading)}</tr></thead>")
    lines = "".join(f"<tr>{_render_cells('td', row)}</tr>" for row in rows)
    return f"<table>{''.join(parts)}<tbody>{lines}</tbody></table>"


def render_fields(title: str, fields: Mapping[str, object]) -> str:
    """Return a table of names and values; values that are None are left out."""
    return render_table(title, [item for item in fields.items() if item[1] is not None])


def format_cell(value: Any) -> str:
    """Return a number with four significant digits, a mapping as `name=value`, else the text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={format_cell(item)}" for name, item in value.items())
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return str(value)


def _render_cells(tag: str, cells: Sequence[object]) -> str:
    return "".join(f'<{tag} style="{_LEFT}">{escape(format_cell(cell))}</{tag}>' for cell in cells)
