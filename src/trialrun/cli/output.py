"""What the command line says: results on standard output, everything else on standard error."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from trialrun.config import as_text


def open_missing_streams() -> None:
    """Give a process that was started without standard streams ones that lead nowhere.

    Else the next file to be opened, a database perhaps, would get their numbers and be written to
    by whatever writes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def print_status(text: str) -> None:
    """A line for people, on standard error; no run is worth ending because none can be written."""
    with suppress(OSError):
        _print_text(text, sys.stderr)


def print_result(text: str) -> None:
    """A result for people, on standard output.

    Raises:
        OSError: The disk that it goes to is full.
    """
    _print_text(text, sys.stdout)


def _print_text(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:  # whoever read has read enough
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(values: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own; JSON knows no NaN or infinity, which become null."""
    print_result(json.dumps(_replace_non_finite(values), ensure_ascii=True))


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: Mapping[str, Any]) -> None:
    """Names and values, the names aligned."""
    width = max((len(name) for name in rows), default=0)
    for name, value in rows.items():
        print_result(f"{name:<{width}}  {as_text(value)}")


def print_error(kind: str, message: str, hint: str) -> None:
    """An error's two lines."""
    print_status(f"Error: {kind}: {' '.join(message.split())}")
    print_status(
        f"Hint: {' '.join(hint.split()) or 'Run it with --debug to see where it came from.'}"
    )


def silence_mlflow() -> None:
    """Keep MLflow's notices of its own housekeeping off the terminal; its warnings stay.

    MLflow reads these as it is imported, and sets up its logging itself. What its database says it
    prints with a traceback and then raises: the error that we tell is enough.
    """
    import logging

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def align_columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """One line a row; all rows have the same number of columns."""
    table = [[" ".join(cell.split()) for cell in row] for row in rows]
    if not table:
        return []
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
