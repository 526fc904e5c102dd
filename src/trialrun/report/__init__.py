"""Metrics, tables, comparisons and figures of predictions; nothing here writes a file."""

from trialrun.report.tables import (
    ClassReport,
    compute_class_reports,
    confusion_matrix,
    tabulate_rows,
)

__all__ = ["ClassReport", "compute_class_reports", "confusion_matrix", "tabulate_rows"]
