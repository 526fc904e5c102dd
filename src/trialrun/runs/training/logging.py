"""Logs a training run to MLflow: parameters, metrics, datasets, events and validation results."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from trialrun.config import NONE_TEXT, TrainConfig, as_text
from trialrun.config.record import SETTINGS_FILE, format_record
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.early_stopping import EpochStatus
from trialrun.engine.ema import describe_ema
from trialrun.engine.state import TrainState
from trialrun.files import format_json
from trialrun.images import escape_non_utf8
from trialrun.images.decoding.gray_values import format_value_range
from trialrun.registry.versions import TRAINED_ON
from trialrun.report.predictions import Predictions
from trialrun.runs.evaluation.predictions import (
    ImagePredictions,
    collect_groups,
    log_predictions,
)
from trialrun.runs.evaluation.tables import log_tables
from trialrun.runs.training.environment import ENVIRONMENT, describe_environment
from trialrun.runs.training.fine_tuning import collect_fine_tuning_params
from trialrun.runs.training.image_sizes import RESOLVED_SIZES
from trialrun.runs.training.inputs.data import PreparedData, PreparedSet
from trialrun.runs.training.inputs.data_mode import describe_modes
from trialrun.runs.training.inputs.manifest import format_json_lines, log_manifest
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.scoring.parity import Parity
from trialrun.tracking import TrackedRun, make_dataset_input, truncate_digest

_TRAIN_NAME, _VALID_NAME = TRAINED_ON, "valid"
_EVENTS = "events.jsonl"

_SPEED = "_per_second"
SUMMARY_STEP = 0  # epochs are steps from 1
_STOP_FIELDS = ("stop_reason", "stopped_epoch", "best_epoch", "best_valid_loss", "weights_sha256")


def log_start(
    run: TrackedRun,
    plan: TrainPlan,
    data: PreparedData,
    compute: ComputeConfig,
    note: Callable[[str], None],
) -> None:
    """Log what is known before the first epoch: settings, environment, datasets and manifest.

    `note` is called with a message for the user.
    The settings are parameters, and exactly in `config.yaml`: MLflow cuts long parameters. Both are
    without the users, passwords and signatures of URLs.
    """
    resolved = {
        "resolved_device": str(compute.device),
        "resolved_image_size": str(data.preprocessing.image_size),
        "resolved_data_layout": plan.data_layout,
        "resolved_data_mode": describe_modes(data.train.decoded, data.valid.decoded),
        "resolved_fit": data.preprocessing.fit,
        "resolved_value_range": format_value_range(data.preprocessing.value_range),
        "num_classes": str(len(plan.classes)),
        "num_train_images": str(len(data.train.dataset)),
        "num_valid_images": str(len(data.valid.dataset)),
    }
    run.log_params(plan.config.public_params() | resolved)
    run.log_text(SETTINGS_FILE, format_record(plan.config, is_public=True))
    run.log_text(ENVIRONMENT, format_json(describe_environment(compute)))
    run.log_inputs(
        [
            make_dataset_input(data.train.scan, name=_TRAIN_NAME, context="training"),
            make_dataset_input(data.valid.scan, name=_VALID_NAME, context="validation"),
        ]
    )
    sets = {_TRAIN_NAME: data.train, _VALID_NAME: data.valid}
    if (text := log_manifest(run, sets)) is not None:
        note(text)
    run.log_text("duplicates.json", format_json(data.leakage.to_json()))
    run.set_tags(
        {"decoded_images": str(data.num_decoded)}
        | {name: str(count) for name, count in data.leakage.counts().items() if count}
    )


def collect_resolved_params(state: TrainState, config: TrainConfig) -> dict[str, str]:
    """Return the parameters that depend on the network, such as precision and warm-up steps.

    `config` is the session's, in which `auto` is resolved.
    """
    statistics = state.batch_norm_statistics
    return {
        "resolved_precision": state.compute.precision,
        "resolved_layout": state.compute.layout,
        "resolved_warmup_steps": str(state.warm_up_steps),
        "resolved_ema": describe_ema(config.ema),
        "resolved_batch_norm_momentum": statistics.rule if statistics else NONE_TEXT,
        **collect_fine_tuning_params(config),
        **({RESOLVED_SIZES: str(state.image_sizes)} if state.image_sizes else {}),
    }


def log_epoch(run: TrackedRun, status: EpochStatus) -> int:
    """Log the metrics of an epoch in one call; return their timestamp in ms since 1970."""
    metrics = status.result.metrics()
    metrics["epochs_without_improvement"] = status.epochs_without_improvement
    if status.result.num_train_images is not None:
        metrics["images_read"] = status.result.num_train_images
    return run.log_metrics(metrics, status.result.epoch)


def collect_linked_metrics(best: EpochStatus, data: PreparedData) -> list[dict[str, Any]]:
    """Return the metrics of the best epoch with the name and digest of the set of each."""
    metrics = drop_speeds(best.result.metrics())
    return [
        {
            "metrics": {key: value for key, value in metrics.items() if key.startswith(prefix)},
            "dataset_name": name,
            "dataset_digest": truncate_digest(prepared.scan),
        }
        for prefix, name, prepared in (
            ("train_", _TRAIN_NAME, data.train),
            ("valid_", _VALID_NAME, data.valid),
        )
    ]


def drop_speeds(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that a repetition of the epoch has too: all but speeds.

    A resumed run may repeat its best epoch after the epoch was logged.
    """
    return {name: value for name, value in metrics.items() if not name.endswith(_SPEED)}


def log_evaluation_fault(run: TrackedRun, events: "EventLog", status: EpochStatus) -> None:
    """Log that the validation metrics of an epoch are wrong, and why."""
    fault = status.result.evaluation_fault
    assert fault is not None
    events.add("evaluation_fault", epoch=status.result.epoch, **asdict(fault))
    run.set_tags({"evaluation_fault": f"epoch {status.result.epoch}: {fault}"})


def log_parity_failure(run: TrackedRun, events: "EventLog", parity: Parity) -> None:
    """Log that the model differs from the trained network, after the stop was logged."""
    events.add("parity_failed", num_images=parity.num_images, **parity.differences)
    run.log_text(_EVENTS, events.text())


class EventLog:
    """The events of a run, one JSON object per line: results of epochs and the stop reason."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows: list[dict[str, Any]] = [dict(row) for row in rows]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Copies of the events, as plain values."""
        return [dict(row) for row in self._rows]

    def add(self, event: str, **fields: Any) -> None:
        """Append an event with the current time."""
        self._rows.append({"event": event, "time": round(time.time(), 3), **fields})

    def add_epoch(self, status: EpochStatus) -> None:
        """Append the result of an epoch."""
        stalled = status.epochs_without_improvement
        self.add(
            "improved" if stalled == 0 else "no_improvement",
            epoch=status.result.epoch,
            valid_loss=status.result.valid_loss,
            best_epoch=status.best_epoch,
            epochs_without_improvement=stalled,
        )

    def text(self) -> str:
        """Return the content of `events.jsonl`."""
        return format_json_lines(self._rows)


def log_stop(
    run: TrackedRun, events: EventLog, result: TrainResult, training_seconds: float | None
) -> None:
    """Log why training stopped and with which weights, as tags and in `events.jsonl`.

    Also log the metrics that runs are compared by, unless the run may be resumed: it then ends with
    others. `training_seconds` is None if training has not started.
    """
    fields = {name: getattr(result, name) for name in _STOP_FIELDS}
    events.add("stopped", **fields)
    run.set_tags({name: as_text(value) for name, value in fields.items()})
    if result.status != "KILLED" and (summary := _summarize(result, training_seconds)):
        run.log_metrics(summary, SUMMARY_STEP)
    run.log_text(_EVENTS, events.text())


def _summarize(result: TrainResult, training_seconds: float | None) -> dict[str, float]:
    """Return the metrics of the best epoch, which MLflow's tables would otherwise not show.

    MLflow's tables show the value of the last step, which is the last epoch's.
    """
    summary: dict[str, float | None] = {"training_seconds": training_seconds}
    if result.best_epoch and isfinite(result.best_valid_loss):
        summary |= {
            "best_epoch": result.best_epoch,
            "best_valid_loss": result.best_valid_loss,
            "best_valid_accuracy": result.metrics["valid_accuracy"],
        }
    return {name: value for name, value in summary.items() if value is not None}


def log_validation(run: TrackedRun, best: EpochStatus, plan: TrainPlan, data: PreparedData) -> None:
    """Log the predictions of the best epoch, their confusion matrix and the per-class table."""
    images = collect_valid_predictions(best, plan, data.valid)
    log_predictions(run, images)
    log_tables(run, images.predictions)


def collect_valid_predictions(
    best: EpochStatus, plan: TrainPlan, valid: PreparedSet
) -> ImagePredictions:
    """Return the predictions of the best epoch for the usable validation images."""
    scan, rows = valid.scan, valid.dataset.rows.tolist()
    return ImagePredictions(
        tuple(escape_non_utf8(scan.images.items[row].name) for row in rows),
        tuple(scan.files[row].sha256 for row in rows),
        build_valid_predictions(best, plan, valid),
        collect_groups([scan.images.items[row] for row in rows]),
    )


def build_valid_predictions(
    status: EpochStatus, plan: TrainPlan, valid: PreparedSet
) -> Predictions:
    """Return the predictions of an epoch without what identifies the images."""
    validation = status.result.validation
    return Predictions(
        plan.classes,
        valid.dataset.labels,
        validation.predicted,
        validation.label_probability.astype(np.float64),
        validation.confidence.astype(np.float64),
    )
