"""A run's tables, as CSV: names may be in any script, with any quoting."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from trialrun import report
from trialrun.report.predictions import Predictions
from trialrun.tracking import TrackedRun


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under the first one's keys; bytes that are no UTF-8 come out as escapes."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def record_tables(run: TrackedRun, predictions: Predictions) -> None:
    """Store the confusion matrix and the per-class table with the run."""
    classes = predictions.classes
    confusion = report.confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    run.text("per_class.csv", as_csv(report.rows(report.per_class(confusion, classes))))
    counts = [
        {"true \\ predicted": name, **dict(zip(classes, row.tolist(), strict=True))}
        for name, row in zip(classes, confusion, strict=True)
    ]
    run.text("confusion_matrix.csv", as_csv(counts))
