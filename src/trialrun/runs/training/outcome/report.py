"""The report at the end of a training, on its validation images."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from trialrun.models.classifier import ImageClassifier
from trialrun.report.document import ReportData
from trialrun.report.figures.curves import draw_curves
from trialrun.runs.evaluation.report import collect_mistakes, collect_suspects, log_report
from trialrun.runs.training.inputs.data import PreparedData
from trialrun.runs.training.inputs.epoch_images import log_best_images
from trialrun.runs.training.logging import collect_valid_predictions
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.progress import RunProgress
from trialrun.tracking import TrackedRun, truncate_digest

_TIME_PICTURE = "accuracy_over_time.png"
_PANELS = {
    "loss": {"training": "train_loss", "validation": "valid_loss"},
    "accuracy": {"training": "train_accuracy", "validation": "valid_accuracy"},
    "learning rate": {"learning rate": "learning_rate"},
}


def log_training_report(
    run: TrackedRun,
    plan: TrainPlan,
    data: PreparedData,
    progress: RunProgress,
    result: TrainResult,
    network: nn.Module,
) -> None:
    """Store the report of the best epoch; `network` is the trained one, in any epoch."""
    best, valid = progress.best, data.valid
    assert best is not None
    images = collect_valid_predictions(best.status, plan, valid)

    def load_pixels(position: int) -> Tensor:
        return valid.dataset.source.pixels(valid.dataset.rows[position : position + 1])[0]

    trained = copy.deepcopy(network).to(torch.device("cpu")).float()
    trained.load_state_dict(dict(best.weights))
    classifier = ImageClassifier(trained, plan.classes, data.preprocessing).eval()
    report = ReportData(
        title=f"{plan.config.model} on {plan.train.source}",
        predictions=images.predictions,
        top5_accuracy=best.status.result.validation.top5_accuracy,
        mistakes=collect_mistakes(images, load_pixels, classifier),
        suspects=collect_suspects(images, load_pixels) if plan.config.audit else None,
        facts=_list_facts(plan, data, result),
        curves=_collect_curves(progress.epochs),
    )
    # Not on the page, so that trainings with the same results have the same page.
    log_report(run, report, images.names, {_TIME_PICTURE: draw_over_time(progress.epochs)})
    log_best_images(run, plan, valid, best)


def _list_facts(plan: TrainPlan, data: PreparedData, result: TrainResult) -> list[tuple[str, str]]:
    version = result.model_version or "not known before the store has the model"
    registered = f"{name}, version {version}" if (name := plan.config.register_as) else "no"
    return [
        ("model", plan.config.model),
        ("registered", registered),
        ("training set", f"{plan.train.source}, digest {truncate_digest(data.train.scan)}"),
        ("training images", str(len(data.train.dataset))),
        ("validation set", f"digest {truncate_digest(data.valid.scan)}; it chose the epoch"),
        ("best epoch", f"{result.best_epoch} of {result.stopped_epoch}"),
        ("stopped", result.stop_reason),
    ]


def _collect_curves(
    epochs: Sequence[Mapping[str, float]],
) -> dict[str, dict[str, dict[float, float]]]:
    """Return the values by panel, line and epoch, from 1; empty panels are left out."""
    numbers = range(1, len(epochs) + 1)
    curves = {
        panel: {line: _collect_line(epochs, numbers, metric) for line, metric in lines.items()}
        for panel, lines in _PANELS.items()
    }
    return {panel: lines for panel, lines in curves.items() if any(lines.values())}


def draw_over_time(epochs: Sequence[Mapping[str, float]]) -> bytes:
    """Return a PNG of the validation accuracy by the seconds that training took until then."""
    seconds = list(accumulate(values.get("epoch_seconds", 0.0) for values in epochs))
    line = {"validation": _collect_line(epochs, seconds, "valid_accuracy")}
    return draw_curves({"accuracy": line}, order=list(line), x_label="seconds of training")


def _collect_line(
    epochs: Sequence[Mapping[str, float]], places: Iterable[float], metric: str
) -> dict[float, float]:
    pairs = zip(places, epochs, strict=True)
    return {place: values[metric] for place, values in pairs if metric in values}
