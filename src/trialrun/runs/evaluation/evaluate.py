"""Evaluates a model on labelled images in an MLflow run linked to the model and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trialrun.config import build_config
from trialrun.config.evaluate import EvaluateConfig
from trialrun.config.promote import METRICS
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import TrackingError
from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import connect_client
from trialrun.models.open import open_classifier
from trialrun.registry.judgements import EVALUATION, make_judgement, record_judgement
from trialrun.registry.versions import find_origin, find_version_of_uri, link_models
from trialrun.report.abstention import AnswerRule, measure_answers
from trialrun.report.document import ReportData
from trialrun.report.html_tables import render_table
from trialrun.report.intervals import Groups, Interval, compute_interval
from trialrun.report.label_errors import check_audit
from trialrun.report.markdown import escape_markdown
from trialrun.report.metrics import compute_metrics
from trialrun.report.predictions import Predictions
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.evaluation.abstention import (
    derive_rule,
    plan_abstention,
    refuse_abstention,
    register_abstaining,
)
from trialrun.runs.evaluation.candidates import Candidate, describe_scores, open_candidate
from trialrun.runs.evaluation.groups import ImageGroups, group_images
from trialrun.runs.evaluation.logging import log_class_metrics, log_dataset, log_metrics
from trialrun.runs.evaluation.predictions import (
    ImagePredictions,
    collect_predictions,
    find_readable_rows,
    log_predictions,
    open_labelled_data,
)
from trialrun.runs.evaluation.report import (
    collect_mistakes,
    collect_suspects,
    log_report,
    make_file_loader,
)
from trialrun.runs.evaluation.tables import log_tables
from trialrun.runs.scoring.classes import count_unknown_classes, describe_unknown_classes
from trialrun.serving.foreign import ForeignModel
from trialrun.tracking import TrackedRun, open_run, truncate_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """The metrics of a model on a dataset, with a confidence interval for each."""

    run_id: str
    model: str
    data: str
    data_digest: str
    num_images: int
    num_groups: int | None  # None if every image counts as one observation
    num_alike: int  # images that are copies of others or look like them
    num_unreadable: int
    unknown_classes: Mapping[str, int] = field(default_factory=dict)  # images per class
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    answer_rule: AnswerRule | None = None  # of the version that abstain registered
    model_name: str | None = None
    model_version: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        values = asdict(self)
        if self.answer_rule is not None:
            values["answer_rule"]["coverage"] = self.answer_rule.coverage
        return values

    def _repr_html_(self) -> str:
        """Return a table of metrics and intervals for notebooks."""
        rows = [
            (name, value, f"{found.low:.4g} to {found.high:.4g}" if found else "")
            for name, value in self.metrics.items()
            for found in (self.intervals.get(name),)
        ]
        title = f"{self.model} on {self.num_images} images of {self.data}"
        return render_table(title, rows, heading=("metric", "value", "interval"))


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
    if config.audit and config.report:
        check_audit()
    callback = callback or NoOpCallback()
    scan = open_labelled_data(
        data,
        group_column=config.group_column,
        group_pattern=config.group_pattern,
        config=config,
        note=callback.on_note,
    )
    client = connect_client()
    origin = find_origin(client, model)
    candidate = open_candidate(
        model, device, allow_model_code=config.allow_model_code, sha256=config.sha256
    )
    plan = None
    if config.abstain is not None:
        plan = plan_abstention(client, model, candidate, origin, scan, config, callback.on_note)
    tags = {"trialrun.kind": "evaluation", "trialrun.model": model}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        callback.on_run_start(run.name, run.run_id)
        run.log_params(
            config.params() | {"resolved_device": str(device), "model": model, "data": data}
        )
        evaluated = _evaluate(run, model, candidate, scan, config, callback)
        link_models(client, run.run_id, [origin.model_id])
        log_dataset(run, scan)
        _log_evaluation(run, scan, evaluated, origin.model_id)
        _record_judgement(client, model, run.run_id, evaluated.images, callback)
        if config.report:
            _log_report(run, candidate, scan, evaluated, config)
        rule = None if plan is None else derive_rule(evaluated.images, evaluated.groups, config)
        result = evaluated.result
        if plan is not None and rule is not None:
            version = register_abstaining(run, plan, rule, evaluated.images, scan)
            result = replace(
                result,
                answer_rule=rule,
                model_name=version.name,
                model_version=version.number,
            )
    if plan is not None and rule is None:
        raise refuse_abstention(evaluated.images, evaluated.groups, config)
    return result


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """The result of an evaluation, and what it was computed from.

    `rows` are those of the readable images in the scanned set.
    """

    result: ModelEvaluation
    images: ImagePredictions
    rows: NDArray[np.int64]
    groups: Groups | None


def _evaluate(
    run: TrackedRun,
    model: str,
    candidate: Candidate,
    scan: DatasetScan,
    config: EvaluateConfig,
    callback: RunCallback,
) -> _Evaluated:
    """Score the images and compute the metrics; note what the user should know."""
    scored, hashes = candidate.score(scan)
    unknown_classes = count_unknown_classes(scan.images, scored.classes)
    for note in describe_scores(model, candidate, scored):
        callback.on_note(note)
    for note in describe_unknown_classes(unknown_classes):
        callback.on_note(note)
    rows = find_readable_rows(scan, scored)
    images = collect_predictions(scan, rows, scored)
    groups = group_images(images.sha256, images.groups, None if hashes is None else hashes[rows])
    result = _build_result(run.run_id, model, scan, images.predictions, groups, config)
    result = replace(result, unknown_classes=unknown_classes)
    result = _add_answers(result, candidate, images.predictions, config.confidence)
    return _Evaluated(result, images, rows, groups.groups)


def _add_answers(
    result: ModelEvaluation, candidate: Candidate, predictions: Predictions, level: float
) -> ModelEvaluation:
    """Add the coverage and the error of the answers of a model that abstains."""
    threshold = candidate.read_threshold()
    if not threshold or predictions.confidence is None:
        return result
    figures = measure_answers(predictions.confidence, predictions.right, threshold, level)
    return replace(
        result,
        metrics={**result.metrics, **{name: value for name, (value, _) in figures.items()}},
        intervals={**result.intervals, **{name: limits for name, (_, limits) in figures.items()}},
    )


def _record_judgement(
    client: "MlflowClient",
    model: str,
    run_id: str,
    images: ImagePredictions,
    callback: RunCallback,
) -> None:
    """Keep with the registered model that these images have judged one of its versions."""
    version = find_version_of_uri(client, model)
    if version is None:
        return
    judgement = make_judgement(EVALUATION, version.number, None, run_id, images.sha256)
    try:
        record_judgement(client, version.name, judgement)
    except TrackingError as error:  # a user may read the registry and not write it
        callback.on_note(f"{error}: a promotion on the same images will not count this evaluation")


def _build_result(
    run_id: str,
    model: str,
    scan: DatasetScan,
    predictions: Predictions,
    groups: ImageGroups,
    config: EvaluateConfig,
) -> ModelEvaluation:
    return ModelEvaluation(
        run_id=run_id,
        model=model,
        data=scan.images.source,
        data_digest=truncate_digest(scan),
        num_images=len(predictions),
        num_groups=groups.num_groups,
        num_alike=groups.num_alike,
        num_unreadable=len(scan.images) - len(predictions),
        metrics=compute_metrics(predictions),
        intervals={
            metric: compute_interval(metric, predictions, config.confidence, groups.groups)
            for metric in METRICS
        },
    )


def _log_evaluation(
    run: TrackedRun, scan: DatasetScan, evaluated: _Evaluated, model_id: str | None
) -> None:
    result, images = evaluated.result, evaluated.images
    bounds = {
        f"{metric}_{side}": bound
        for metric, interval in result.intervals.items()
        for side, bound in asdict(interval).items()
    }
    log_metrics(run, {**result.metrics, **bounds}, scan, model_id)
    log_class_metrics(run, images.predictions, scan, model_id)
    log_tables(run, images.predictions)
    log_predictions(run, images)
    run.set_tags({"mlflow.note.content": _format_card(result)})


def _log_report(
    run: TrackedRun,
    candidate: Candidate,
    scan: DatasetScan,
    evaluated: _Evaluated,
    config: EvaluateConfig,
) -> None:
    result, images = evaluated.result, evaluated.images
    is_foreign = isinstance(candidate.model, ForeignModel)
    classifier = None if is_foreign else open_classifier(candidate.folder)
    items = [scan.images.items[row] for row in evaluated.rows]
    in_top5 = images.predictions.in_top5
    load_pixels = make_file_loader(scan.images, items, classifier)
    data = ReportData(
        title=f"{result.model} on {result.data}",
        predictions=images.predictions,
        top5_accuracy=None if in_top5 is None else float(in_top5.mean()),
        mistakes=collect_mistakes(images, load_pixels, classifier),
        suspects=collect_suspects(images, load_pixels) if config.audit else None,
        facts=[("model", result.model), ("data", result.data), ("digest", result.data_digest)],
        level=config.confidence,
        groups=evaluated.groups,
    )
    log_report(run, data, images.names)


def _format_card(result: ModelEvaluation) -> str:
    lines = [
        f"## {escape_markdown(result.model)} on {escape_markdown(result.data)}",
        "",
        f"{describe_size(result)}.",
        *(
            f"**{escape_markdown(line)}.**"
            for line in describe_unknown_classes(result.unknown_classes)
        ),
        "",
        "| metric | value | interval |",
        "|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in format_figures(result)]
    return "\n".join(lines)


def describe_size(result: ModelEvaluation) -> str:
    """Return the numbers of images, of groups and of unreadable images as text."""
    groups = "" if result.num_groups is None else f" in {result.num_groups} groups"
    alike = f", {result.num_alike} copied or alike" if result.num_alike else ""
    return f"{result.num_images} images{groups}{alike}, {result.num_unreadable} unreadable"


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
