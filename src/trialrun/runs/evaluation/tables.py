"""CSV tables of a run, such as the confusion matrix. A cell may contain any text."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from trialrun import report
from trialrun.images import escape_non_utf8
from trialrun.report.predictions import Predictions
from trialrun.runs.scoring.tables import choose_quoting
from trialrun.tracking import TrackedRun, log_table


def format_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return CSV with the keys of the first row as header; bytes that are not UTF-8 are escaped."""
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


def log_tables(run: TrackedRun, predictions: Predictions) -> None:
    """Store the confusion matrix and the per-class table with the run.

    The per-class table is a CSV file, and JSON for MLflow's own view of tables.
    """
    classes = predictions.classes
    confusion = report.confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    rows = report.tabulate_rows(report.compute_class_reports(confusion, classes))
    run.log_text("per_class.csv", format_csv(rows))
    log_table(run, "per_class.json", [row | {"name": escape_non_utf8(row["name"])} for row in rows])
    counts = [
        {"true \\ predicted": name, **dict(zip(classes, row.tolist(), strict=True))}
        for name, row in zip(classes, confusion, strict=True)
    ]
    run.log_text("confusion_matrix.csv", format_csv(counts))
