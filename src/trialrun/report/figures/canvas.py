"""What all figures share: the size, the file format and the text of names."""

import io
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
_MISSING = "\u25a1"  # in place of a character that the font lacks
_ELLIPSIS = "\u2026"


def create_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save_png(figure: "Figure") -> bytes:
    """Return the figure as a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def shorten_name(name: str, max_length: int) -> str:
    """Return a class or file name for a figure: one short line of characters that the font has.

    Matplotlib would read a pair of `$` as a formula.
    """
    name = " ".join(name.split())
    if len(name) > max_length:
        name = name[: max_length - 1] + _ELLIPSIS
    known = _list_characters()
    text = "".join(letter if ord(letter) in known else _MISSING for letter in name)
    return text.replace("$", r"\$")


@cache
def _list_characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
