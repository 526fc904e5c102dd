"""Metrics, tables, comparisons and figures out of predictions; computes only, writes nothing."""

from trialrun.report.tables import (
    ClassReport,
    compute_class_reports,
    confusion_matrix,
    tabulate_rows,
)

__all__ = ["ClassReport", "compute_class_reports", "confusion_matrix", "tabulate_rows"]
