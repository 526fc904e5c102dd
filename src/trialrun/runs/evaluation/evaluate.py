"""A model judged on labelled images, as an MLflow run linked to the model and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trialrun.config import from_values
from trialrun.config.evaluate import EvaluateConfig
from trialrun.config.promote import METRICS
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.images.scanning.scan import Survey
from trialrun.mlflow_client import connect
from trialrun.models.open import open_classifier
from trialrun.registry import model_folder
from trialrun.registry.versions import link_models, origin_of
from trialrun.report.bootstrap import Interval, Resampling
from trialrun.report.metrics import values_of
from trialrun.report.paired import interval_of
from trialrun.report.predictions import Predictions
from trialrun.runs.callbacks import Observer, Silent
from trialrun.runs.evaluation.predictions import (
    AnsweredImages,
    answered,
    answers,
    keep,
    open_labelled,
    readable_rows,
)
from trialrun.runs.evaluation.score import told_unknown, unknown_classes
from trialrun.runs.evaluation.tables import record_tables
from trialrun.scoring import move_to
from trialrun.tracking import TrackedRun, dataset_digest, dataset_input, open_run

DATASET_NAME = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model came to on a set; `intervals` go with `metrics`."""

    run_id: str
    model: str
    data: str
    data_digest: str
    num_images: int
    num_unreadable: int
    unknown_classes: Mapping[str, int] = field(default_factory=dict)  # images of each
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the fields."""
        return asdict(self)


@isolate_torch_state()
def evaluate(
    model: str, data: str, values: Mapping[str, Any], observer: Observer | None = None
) -> Evaluation:
    """Judge `model` on `data`.

    Raises:
        TrialrunError: As its kinds say.
    """
    config = from_values(EvaluateConfig, values)
    device = find_device(config.device)
    observer = observer or Silent()
    surveyed = open_labelled(data)
    client = connect()
    origin = origin_of(client, model)
    classifier = move_to(open_classifier(model_folder(model)), device)
    tags = {"trialrun.kind": "evaluation", "trialrun.model": model}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        observer.opened(run.name, run.run_id)
        run.params(config.params() | {"resolved_device": str(device), "model": model, "data": data})
        unknown = unknown_classes(surveyed.images, classifier.classes)
        for line in told_unknown(unknown):
            observer.note(line)
        scores = answers(classifier, surveyed)
        rows = readable_rows(surveyed, scores)
        images = answered(surveyed, rows, classifier.classes, scores)
        link_models(client, run.run_id, [origin.model_id])
        result = _result(run.run_id, model, surveyed, images.predictions, config)
        result = replace(result, unknown_classes=unknown)
        record_dataset(run, surveyed)
        _record(run, surveyed, images, result, origin.model_id)
    return result


def _result(
    run_id: str, model: str, surveyed: Survey, predictions: Predictions, config: EvaluateConfig
) -> Evaluation:
    resampling = Resampling(
        draws=config.draws, confidence=config.confidence, random_seed=config.random_seed
    )
    return Evaluation(
        run_id=run_id,
        model=model,
        data=surveyed.images.source,
        data_digest=dataset_digest(surveyed),
        num_images=len(predictions),
        num_unreadable=len(surveyed.images) - len(predictions),
        metrics=values_of(predictions),
        intervals={metric: interval_of(metric, predictions, resampling) for metric in METRICS},
    )


def record_dataset(run: TrackedRun, surveyed: Survey) -> None:
    """The test set as an input of the run."""
    run.inputs([dataset_input(surveyed, name=DATASET_NAME, context="test")])


def record_metrics(
    run: TrackedRun, metrics: Mapping[str, float], surveyed: Survey, model_id: str | None
) -> None:
    """Figures linked to the test set, and to the model where MLflow has it."""
    links: dict[str, Any] = {"model_id": model_id} if model_id else {}
    run.metrics(
        metrics,
        0,
        dataset_name=DATASET_NAME,
        dataset_digest=dataset_digest(surveyed),
        **links,
    )


def _record(
    run: TrackedRun,
    surveyed: Survey,
    images: AnsweredImages,
    result: Evaluation,
    model_id: str | None,
) -> None:
    bounds = {
        f"{metric}_{side}": bound
        for metric, interval in result.intervals.items()
        for side, bound in asdict(interval).items()
    }
    record_metrics(run, {**result.metrics, **bounds}, surveyed, model_id)
    record_tables(run, images.predictions)
    keep(run, images)
    run.tags({"mlflow.note.content": _card(result)})


def _card(result: Evaluation) -> str:
    lines = [
        f"## {result.model} on {result.data}",
        "",
        f"{result.num_images} images, {result.num_unreadable} unreadable.",
        *(f"**{line}.**" for line in told_unknown(result.unknown_classes)),
        "",
        "| metric | value | interval |",
        "|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in figure_rows(result)]
    return "\n".join(lines)


def figure_rows(result: Evaluation) -> Sequence[tuple[str, str, str]]:
    """Metric, value and interval as people read them."""
    return [
        (
            name,
            f"{value:.4f}",
            f"{result.intervals[name].low:.4f} to {result.intervals[name].high:.4f}",
        )
        for name, value in result.metrics.items()
    ]
