"""The record of a trained model: uploads it, links its metrics and registers a version.

The record holds the data files of the model directory. Sending it again completes what an earlier
attempt has started: one model and one version remain.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trialrun.files import scratch_directory, translate_storage_errors
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.models.directory import read_description
from trialrun.models.zoo.names import MODEL_CARD
from trialrun.registry import (
    LoggedModel,
    find_or_create_model,
    format_run_address,
    register_once,
    upload_model,
)
from trialrun.serving.package import add_serving_files
from trialrun.tracking import RecordHandler, RunTarget

MODEL_RECORD = "model"
CARD_ADDRESS = format_run_address("RUN_ID")  # of the model in a card, until its run is known


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What is logged with a model: its parameters, tags and card, and the metrics of its epoch.

    The card names the model by `CARD_ADDRESS`: a run that is offline has no id in the store.
    `metrics` has one row per set: the metrics, and the name and digest of the dataset.
    """

    params: Mapping[str, str]
    tags: Mapping[str, str]
    step: int
    timestamp_ms: int
    metrics: list[dict[str, Any]] = field(default_factory=list)
    register_as: str | None = None
    card: str = ""
    pytorch_flavor: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def send_model(target: RunTarget, values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Log the model in `folder`, link the metrics of its epoch, and register it if asked.

    Returns:
        `model_id`, and `version` if a version is registered.

    Raises:
        TrackingError: The store, the artifact store or the registry fails.
        StorageError: The artifact store's disk is full or not writable.
    """
    record = ModelRecord(**values)
    address = format_run_address(target.run_id)
    record = replace(record, card=record.card.replace(CARD_ADDRESS, address))
    with translate_tracking_errors("the model cannot be created"):
        experiment_id = target.experiment_id
    model = find_or_create_model(
        target.client,
        experiment_id=experiment_id,
        run_id=target.run_id,
        params=record.params,
        tags=record.tags,
    )
    _upload(target, model, folder, record)
    _link_metrics(target, model, record)
    if record.card:
        _log_card(target, record.card)
    result: dict[str, Any] = {"model_id": model.model_id, "version": None}
    if record.register_as is not None:
        result["version"] = register_once(
            target.client,
            model,
            name=record.register_as,
            run_id=target.run_id,
            tags=record.tags,
            card=record.card,
        )
    return result


HANDLERS: Mapping[str, RecordHandler] = {MODEL_RECORD: send_model}


def _upload(target: RunTarget, model: LoggedModel, folder: Path, record: ModelRecord) -> None:
    description, _ = read_description(folder)
    with scratch_directory() as scratch:
        complete = scratch / "model"
        with translate_storage_errors(complete):
            shutil.copytree(folder, complete)
            add_serving_files(
                complete,
                description,
                model_id=model.model_id,
                run_id=target.run_id,
                with_pytorch_flavor=record.pytorch_flavor,
            )
            if record.card:
                (complete / MODEL_CARD).write_text(record.card, encoding="utf-8")
        upload_model(target.client, model, complete, run_id=target.run_id, step=record.step)


def _log_card(target: RunTarget, card: str) -> None:
    """Store the card as the run's description and as a file."""
    with translate_tracking_errors("the model card cannot be logged"):
        target.client.set_tag(target.run_id, "mlflow.note.content", card)
        target.client.log_text(target.run_id, card, MODEL_CARD)


def _link_metrics(target: RunTarget, model: LoggedModel, record: ModelRecord) -> None:
    """Link the metrics of the best epoch to the model and to the sets they were measured on.

    The metrics are logged again with the same timestamp: MLflow then keeps one value, with the
    links.
    """
    from mlflow.entities import Metric

    metrics: list[Metric] = [
        Metric(
            name,
            value,
            record.timestamp_ms,
            record.step,
            model_id=model.model_id,
            dataset_name=row["dataset_name"],
            dataset_digest=row["dataset_digest"],
        )
        for row in record.metrics
        for name, value in row["metrics"].items()
    ]
    with translate_tracking_errors("metrics cannot be logged"):
        target.client.log_batch(target.run_id, metrics=metrics)
