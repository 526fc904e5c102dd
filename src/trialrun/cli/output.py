"""Output of the command line: results on standard output, everything else on standard error."""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from typing import Any, TextIO

from trialrun.cli.terminal import find_width, fit_line, is_terminal, paint, wrap
from trialrun.config import as_text

_GAP = 2  # between columns
_MIN_COLUMN = 10

_quiet = False


def open_missing_streams() -> None:
    """Open /dev/null for each standard stream that the process was started without.

    Otherwise the next opened file, perhaps a database, would get the stream's descriptor, and
    output would be written into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))


@contextmanager
def set_quiet(quiet: bool) -> Iterator[None]:
    """Inside the context, hide status lines and progress bars if `quiet`."""
    global _quiet  # of the process: callbacks print from several threads
    before, _quiet = _quiet, quiet
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Whether status lines and progress bars are hidden."""
    return _quiet


def print_status(text: str) -> None:
    """Print a progress or status line on standard error; `--quiet` hides it."""
    if not _quiet:
        print_message(text)


def print_message(text: str) -> None:
    """Print a line on standard error, also with `--quiet`.

    A failed write is ignored, because a run should not fail for it.
    """
    with suppress(OSError):
        _print_line(fit_line(text, sys.stderr), sys.stderr)


def print_result(text: str) -> None:
    """Print a line of the result on standard output.

    Raises:
        OSError: The disk that standard output is redirected to is full.
    """
    _print_line(fit_line(text, sys.stdout), sys.stdout)


def _print_line(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object on a line; NaN and infinity, which JSON lacks, become null."""
    _print_line(json.dumps(_replace_non_finite(values), ensure_ascii=True), sys.stdout)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: Mapping[str, Any]) -> None:
    """Print names and values in two aligned columns."""
    width = max((len(name) for name in rows), default=0)
    for name, value in rows.items():
        print_result(f"{name:<{width}}  {as_text(value)}")


def print_error(kind: str, message: str, hint: str) -> None:
    """Print the two lines of an error."""
    _print_labelled("Error:", "red", f"{kind}: {message}")
    _print_labelled("Hint:", "yellow", hint or "Run with --debug to see the traceback.")


def _print_labelled(label: str, style: str, text: str) -> None:
    line = fit_line(f"{label} {' '.join(text.split())}", sys.stderr)
    with suppress(OSError):
        _print_line(paint(label, style, sys.stderr) + line.removeprefix(label), sys.stderr)


def silence_mlflow() -> None:
    """Hide MLflow's informational messages and progress bars; its warnings remain.

    Call it before MLflow is imported, which reads these variables. The logger prints a traceback
    of every database error that MLflow then raises; the command line reports the error itself.
    """
    import logging

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def align_columns(rows: Iterable[Sequence[str]], *, indent: int = 0) -> list[str]:
    """Format rows of equal length as lines with aligned columns, `indent` spaces from the left.

    On a terminal that is too narrow, the cells of the widest columns take several lines.
    """
    table = [[" ".join(cell.split()) for cell in row] for row in rows]
    if not table:
        return []
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    if is_terminal(sys.stdout):
        _narrow(widths, find_width(sys.stdout) - indent)
    return [" " * indent + line for row in table for line in _format_row(row, widths)]


def _narrow(widths: list[int], limit: int) -> None:
    """Narrow the widest columns until a row has at most `limit` characters, if that is possible."""
    while sum(widths) + _GAP * (len(widths) - 1) > limit and max(widths) > _MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1


def _format_row(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    cells = [
        wrap(cell, width, "").splitlines() if len(cell) > width else [cell]
        for cell, width in zip(row, widths, strict=True)
    ]
    for parts in zip_longest(*cells, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
        yield (" " * _GAP).join(padded).rstrip()
