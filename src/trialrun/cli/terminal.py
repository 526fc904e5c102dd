"""The terminal behind a stream: its width, whether it shows colors, and lines that fit on it."""

import os
import re
import textwrap
from typing import TextIO

_UNKNOWN_WIDTH = 80
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "32", "yellow": "33"}


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal."""
    return stream.isatty()


def is_live(stream: TextIO) -> bool:
    """Whether `stream` is a terminal on which a line can be written again."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def find_width(stream: TextIO) -> int:
    """Return the columns of the terminal, or of the variable COLUMNS; 80 if neither is known."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _UNKNOWN_WIDTH
    except (OSError, ValueError):  # not a terminal, or a stream without a descriptor
        return _UNKNOWN_WIDTH


def paint(text: str, style: str, stream: TextIO) -> str:
    """Return `text` in a style of `_STYLES` if `stream` is a terminal and NO_COLOR is not set."""
    if not is_live(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def fit_line(text: str, stream: TextIO) -> str:
    """Wrap a line that is longer than the terminal; the rest is indented.

    Words are not broken, so that paths and commands can be copied. Files and pipes get whole lines.
    """
    if not is_terminal(stream) or len(_ANSI.sub("", text)) <= (width := find_width(stream)):
        return text
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return wrap(text, width, indent)


def wrap(text: str, width: int, indent: str, *, first: str = "") -> str:
    """Wrap a text; its first line begins with `first`, the others with `indent`."""
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def format_duration(seconds: float) -> str:
    """Return `1.9 s`, `2:05` in minutes and seconds, or `3:20:05` with hours."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
