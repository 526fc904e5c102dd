"""Evaluates a model on labelled images in an MLflow run linked to the model and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trialrun.config import build_config
from trialrun.config.evaluate import EvaluateConfig
from trialrun.config.promote import METRICS
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import connect_client
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import find_model_folder
from trialrun.registry.versions import find_origin, link_models
from trialrun.report.bootstrap import Interval, Resampling
from trialrun.report.metrics import compute_metrics
from trialrun.report.paired import compute_interval
from trialrun.report.predictions import Predictions
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.evaluation.predictions import (
    ImagePredictions,
    collect_predictions,
    find_readable_rows,
    log_predictions,
    open_labelled_data,
    predict_images,
)
from trialrun.runs.evaluation.score import count_unknown_classes, describe_unknown_classes
from trialrun.runs.evaluation.tables import log_tables
from trialrun.scoring import move_classifier
from trialrun.tracking import TrackedRun, make_dataset_input, open_run, truncate_digest

_DATASET_NAME = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """The metrics of a model on a dataset, with a confidence interval for each."""

    run_id: str
    model: str
    data: str
    data_digest: str
    num_images: int
    num_unreadable: int
    unknown_classes: Mapping[str, int] = field(default_factory=dict)  # images per class
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return asdict(self)


@isolate_torch_state()
def evaluate_model(
    model: str, data: str, values: Mapping[str, Any], callback: RunCallback | None = None
) -> ModelEvaluation:
    """Evaluate `model` on the labelled images of `data` in an MLflow run.

    Raises:
        TrialrunError: Settings, model, data or MLflow fail (see its subclasses).
    """
    config = build_config(EvaluateConfig, values)
    device = find_device(config.device)
    callback = callback or NoOpCallback()
    scan = open_labelled_data(data)
    client = connect_client()
    origin = find_origin(client, model)
    classifier = move_classifier(open_classifier(find_model_folder(model)), device)
    tags = {"trialrun.kind": "evaluation", "trialrun.model": model}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        callback.on_run_start(run.name, run.run_id)
        run.log_params(
            config.params() | {"resolved_device": str(device), "model": model, "data": data}
        )
        unknown_classes = count_unknown_classes(scan.images, classifier.classes)
        for line in describe_unknown_classes(unknown_classes):
            callback.on_note(line)
        images = _predict_readable(classifier, scan)
        link_models(client, run.run_id, [origin.model_id])
        result = _build_result(run.run_id, model, scan, images.predictions, config)
        result = replace(result, unknown_classes=unknown_classes)
        log_dataset(run, scan)
        _log_evaluation(run, scan, images, result, origin.model_id)
    return result


def _predict_readable(classifier: ImageClassifier, scan: DatasetScan) -> ImagePredictions:
    scores = predict_images(classifier, scan)
    rows = find_readable_rows(scan, scores)
    return collect_predictions(scan, rows, classifier.classes, scores)


def _build_result(
    run_id: str, model: str, scan: DatasetScan, predictions: Predictions, config: EvaluateConfig
) -> ModelEvaluation:
    resampling = Resampling(
        draws=config.draws, confidence=config.confidence, random_seed=config.random_seed
    )
    return ModelEvaluation(
        run_id=run_id,
        model=model,
        data=scan.images.source,
        data_digest=truncate_digest(scan),
        num_images=len(predictions),
        num_unreadable=len(scan.images) - len(predictions),
        metrics=compute_metrics(predictions),
        intervals={metric: compute_interval(metric, predictions, resampling) for metric in METRICS},
    )


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


def _log_evaluation(
    run: TrackedRun,
    scan: DatasetScan,
    images: ImagePredictions,
    result: ModelEvaluation,
    model_id: str | None,
) -> None:
    bounds = {
        f"{metric}_{side}": bound
        for metric, interval in result.intervals.items()
        for side, bound in asdict(interval).items()
    }
    log_metrics(run, {**result.metrics, **bounds}, scan, model_id)
    log_tables(run, images.predictions)
    log_predictions(run, images)
    run.set_tags({"mlflow.note.content": _format_card(result)})


def _format_card(result: ModelEvaluation) -> str:
    lines = [
        f"## {result.model} on {result.data}",
        "",
        f"{result.num_images} images, {result.num_unreadable} unreadable.",
        *(f"**{line}.**" for line in describe_unknown_classes(result.unknown_classes)),
        "",
        "| metric | value | interval |",
        "|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in format_figures(result)]
    return "\n".join(lines)


def format_figures(result: ModelEvaluation) -> Sequence[tuple[str, str, str]]:
    """Return each metric with its value and interval as text."""
    return [
        (
            name,
            f"{value:.4f}",
            f"{result.intervals[name].low:.4f} to {result.intervals[name].high:.4f}",
        )
        for name, value in result.metrics.items()
    ]
