"""A run's tables, as CSV: names may be in any script, with any quoting."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from trialrun import report
from trialrun.images import escape_non_utf8
from trialrun.report.predictions import Predictions
from trialrun.tracking import TrackedRun


def format_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under the first one's keys; bytes that are no UTF-8 come out as escapes."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text,
        fieldnames=list(rows[0]) if rows else [],
        lineterminator="\n",
        quoting=choose_quoting(chain(*rows, *(row.values() for row in rows))),
    )
    writer.writeheader()
    writer.writerows(rows)
    return escape_non_utf8(text.getvalue())


def choose_quoting(cells: Iterable[object]) -> Literal[0, 2]:
    """What `csv` must quote in a table of these cells, lines ending in a newline.

    Of carriage returns it quotes only those that its own lines end in (before Python 3.13), while
    readers end a line at any that is not quoted.
    """
    has_return = any(isinstance(cell, str) and "\r" in cell for cell in cells)
    return csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL


def log_tables(run: TrackedRun, predictions: Predictions) -> None:
    """Store the confusion matrix and the per-class table with the run."""
    classes = predictions.classes
    confusion = report.confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    run.log_text(
        "per_class.csv",
        format_csv(report.tabulate_rows(report.compute_class_reports(confusion, classes))),
    )
    counts = [
        {"true \\ predicted": name, **dict(zip(classes, row.tolist(), strict=True))}
        for name, row in zip(classes, confusion, strict=True)
    ]
    run.log_text("confusion_matrix.csv", format_csv(counts))
