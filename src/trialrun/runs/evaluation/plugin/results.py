"""The record of an evaluation from MLflow's side, and what MLflow gets of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.files import scratch_directory
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.report.document import Report
from trialrun.runs.evaluation.predictions import ImagePredictions
from trialrun.runs.evaluation.report import list_files
from trialrun.runs.evaluation.tables import (
    PER_CLASS,
    format_csv,
    log_class_table,
    tabulate_classes,
    tabulate_confusion,
)
from trialrun.tracking import TrackedRun, list_tables

if TYPE_CHECKING:
    from mlflow.models import EvaluationArtifact, EvaluationResult

FOLDER = "evaluation_report"  # among the artifacts; `report` may be that of the run's training
LOG_LOSS = "log_loss"


def store_results(
    report: Report,
    images: ImagePredictions,
    run_id: str,
    *,
    dataset: Any,
    model_id: str | None,
    prefix: str,
    has_probabilities: bool,
) -> "EvaluationResult":
    """Store metrics and files with a run, and return them as MLflow does.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.models import EvaluationResult
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    run = TrackedRun(client, run_id)
    metrics = list_metrics(report, prefix, has_probabilities=has_probabilities)
    links: dict[str, Any] = {"model_id": model_id} if model_id else {}
    run.log_metrics(metrics, 0, dataset_name=dataset.name, dataset_digest=dataset.digest, **links)
    folder = f"{prefix}{FOLDER}"
    tables = list_tables(client, run_id)
    rows = tabulate_classes(images.predictions)
    log_class_table(run, f"{folder}/{PER_CLASS}.json", rows, others=tables)
    artifacts = _store_files(run, folder, _list_contents(report, images))
    return EvaluationResult(metrics=metrics, artifacts=artifacts, run_id=run_id)


def list_metrics(report: Report, prefix: str, *, has_probabilities: bool) -> dict[str, float]:
    """Return each metric with the limits of its interval, as `accuracy_low` and `accuracy_high`.

    There is no log loss of predictions without probabilities.
    """
    metrics: dict[str, float] = {}
    for row in report.headlines:
        name = row.name.lower().replace("top-5", "top5").replace(" ", "_")
        if name != LOG_LOSS or has_probabilities:
            limits = {"_low": row.interval.low, "_high": row.interval.high}
            metrics[prefix + name] = row.value
            metrics |= {f"{prefix}{name}{side}": limit for side, limit in limits.items()}
    return metrics


def _list_contents(report: Report, images: ImagePredictions) -> dict[str, bytes]:
    predictions = images.predictions
    return {
        **list_files(report, predictions, images.names),
        f"{PER_CLASS}.csv": format_csv(tabulate_classes(predictions)).encode("utf-8"),
        "confusion_matrix.csv": format_csv(tabulate_confusion(predictions)).encode("utf-8"),
    }


def _store_files(
    run: TrackedRun, folder: str, contents: dict[str, bytes]
) -> "dict[str, EvaluationArtifact]":
    """Store the files; return MLflow's object for each by its name."""
    from mlflow.tracking.artifact_utils import get_artifact_uri

    artifacts = {}
    with scratch_directory() as scratch:
        for name, content in contents.items():
            path = scratch / name
            path.write_bytes(content)
            run.log_artifact(path, folder)
            with translate_tracking_errors(f"run {run.run_id} cannot be read"):
                uri = get_artifact_uri(run.run_id, f"{folder}/{name}")
            artifacts[name] = _load_artifact(uri, path)
    return artifacts


def _load_artifact(uri: str, path: Path) -> "EvaluationArtifact":
    """Return MLflow's object for a stored file, with its content."""
    from mlflow.models.evaluation import artifacts

    kinds: dict[str, Any] = {
        ".png": artifacts.ImageEvaluationArtifact,
        ".csv": artifacts.CsvEvaluationArtifact,
        ".html": artifacts.TextEvaluationArtifact,
    }
    artifact: EvaluationArtifact = kinds[path.suffix](uri=uri)
    artifact._load(str(path))
    return artifact
