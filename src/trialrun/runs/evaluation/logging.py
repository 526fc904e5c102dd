"""Metrics of an evaluation in its MLflow run, linked to the test set and the model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trialrun import report
from trialrun.images.scanning.scan import DatasetScan
from trialrun.report.predictions import Predictions
from trialrun.tracking import TrackedRun, make_dataset_input, truncate_digest

_DATASET_NAME = "test"
_MAX_METRICS = 1000  # that MLflow logs in one call
_MAX_CLASS_NAME = 200  # characters of a metric's name that MLflow stores: 250


def log_dataset(run: TrackedRun, scan: DatasetScan) -> None:
    """Log the test set as an input of the run."""
    run.log_inputs([make_dataset_input(scan, name=_DATASET_NAME, context="test")])


def log_metrics(
    run: TrackedRun, metrics: Mapping[str, float], scan: DatasetScan, model_id: str | None
) -> None:
    """Log metrics linked to the test set, and to the model if it is in MLflow."""
    links: dict[str, Any] = {"model_id": model_id} if model_id else {}
    run.log_metrics(
        metrics,
        0,
        dataset_name=_DATASET_NAME,
        dataset_digest=truncate_digest(scan),
        **links,
    )


def log_class_metrics(
    run: TrackedRun,
    predictions: Predictions,
    scan: DatasetScan,
    model_id: str | None,
    *,
    prefix: str = "",
) -> None:
    """Log precision, recall and F1 of each class with images, as `recall/NAME` and so on."""
    classes = predictions.classes
    confusion = report.confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    reports = report.compute_class_reports(confusion, classes)
    figures = {
        f"{prefix}{metric}/{name}": getattr(row, metric)
        for name, row in zip(name_class_metrics(classes), reports, strict=True)
        for metric in ("precision", "recall", "f1")
        if row.images
    }
    names = list(figures)
    for start in range(0, len(names), _MAX_METRICS):
        chunk = {name: figures[name] for name in names[start : start + _MAX_METRICS]}
        log_metrics(run, chunk, scan, model_id)


def name_class_metrics(classes: Sequence[str]) -> list[str]:
    """Return a distinct name per class of the characters that MLflow accepts in metric names."""
    names: list[str] = []
    for index, name in enumerate(classes):
        safe = re.sub(r"[^\w.\- :]", "_", name)[:_MAX_CLASS_NAME]
        is_taken = safe in names or set(safe) <= {"."}
        names.append(f"{safe}_{index}" if is_taken else safe)
    return names
