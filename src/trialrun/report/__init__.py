"""Metrics, tables, comparisons and figures out of predictions; computes only, writes nothing."""

from trialrun.report.tables import ClassReport, confusion_matrix, per_class, rows

__all__ = ["ClassReport", "confusion_matrix", "per_class", "rows"]
