"""CSV tables of a run, such as the confusion matrix. A cell may contain any text."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun import report
from trialrun.images import escape_non_utf8
from trialrun.report.predictions import Predictions
from trialrun.runs.scoring.tables import choose_quoting
from trialrun.tracking import TrackedRun, log_table

PER_CLASS = "per_class"


def format_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Return CSV with the keys of the first row as header; bytes that are not UTF-8 are escaped.

    `columns` are the header of a table without rows.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text,
        fieldnames=list(rows[0]) if rows else columns,
        lineterminator="\n",
        quoting=choose_quoting(chain(*rows, *(row.values() for row in rows))),
    )
    writer.writeheader()
    writer.writerows(rows)
    return escape_non_utf8(text.getvalue())


def log_tables(run: TrackedRun, predictions: Predictions) -> None:
    """Store the confusion matrix and the per-class table with the run.

    The per-class table is a CSV file, and JSON for MLflow's own view of tables.
    """
    rows = tabulate_classes(predictions)
    run.log_text(f"{PER_CLASS}.csv", format_csv(rows))
    run.log_text("confusion_matrix.csv", format_csv(tabulate_confusion(predictions)))
    log_class_table(run, f"{PER_CLASS}.json", rows)


def tabulate_classes(predictions: Predictions) -> list[dict[str, Any]]:
    """Return one row per class: name, images, precision, recall and F1."""
    confusion = _count(predictions)
    return report.tabulate_rows(report.compute_class_reports(confusion, predictions.classes))


def tabulate_confusion(predictions: Predictions) -> list[dict[str, Any]]:
    """Return one row per true class, with a column per predicted class."""
    classes = predictions.classes
    return [
        {"true \\ predicted": name, **dict(zip(classes, row.tolist(), strict=True))}
        for name, row in zip(classes, _count(predictions), strict=True)
    ]


def _count(predictions: Predictions) -> NDArray[np.int64]:
    return report.confusion_matrix(
        predictions.labels, predictions.predicted, len(predictions.classes)
    )


def log_class_table(
    run: TrackedRun,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    others: Sequence[Mapping[str, str]] = (),
) -> None:
    """Store the per-class table for MLflow's view of tables; `others` are as in `log_table`."""
    log_table(
        run, name, [{**row, "name": escape_non_utf8(row["name"])} for row in rows], others=others
    )
