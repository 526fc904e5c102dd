"""Markdown texts of run descriptions."""

import re

from trialrun.images import make_printable

_SPECIAL = re.compile(r"([\\`*_\[\]<>&~#|])")


def escape_markdown(text: str) -> str:
    """Return Markdown that shows `text` unchanged on one line, also in a cell of a table.

    Line breaks and other control characters are shown escaped, as in messages.
    """
    return _SPECIAL.sub(r"\\\1", make_printable(text))
