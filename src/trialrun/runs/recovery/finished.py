"""Reads from MLflow what a training run has logged: its metrics, and its result at the end."""

import math
from typing import TYPE_CHECKING

from trialrun.mlflow_client import translate_tracking_errors
from trialrun.runs.inspection.run_reader import RecordedRun, read_metric_history
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.tracking import SYSTEM_PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient

_METRICS = ("train_", "valid_", "learning_rate", "data_wait_fraction", "epoch_seconds")


def read_result(client: "MlflowClient", run: RecordedRun) -> TrainResult:
    """Return the result that the run returned when it finished.

    Raises:
        TrackingError: The store fails.
    """
    tags = run.tags
    best_epoch = int(tags.get("best_epoch", 0))
    names = [name for name in run.metrics if name.startswith(_METRICS)]
    histories = {name: read_metric_history(client, run.run_id, name) for name in names}
    model_id = _find_model(client, run)
    version = _find_version(client, run, model_id)
    return TrainResult(
        run_id=run.run_id,
        status=run.status,
        stop_reason=tags.get("stop_reason", ""),
        stopped_epoch=int(tags.get("stopped_epoch", 0)),
        best_epoch=best_epoch,
        best_valid_loss=float(tags.get("best_valid_loss", math.nan)),
        metrics={
            name: history[best_epoch]
            for name, history in histories.items()
            if best_epoch in history
        },
        weights_sha256=tags.get("weights_sha256"),
        model_uri=model_id and f"models:/{model_id}",
        model_name=version[0] if version else None,
        model_version=version[1] if version else None,
    )


def _find_model(client: "MlflowClient", run: RecordedRun) -> str | None:
    with translate_tracking_errors(f"the model of run {run.run_id} cannot be found"):
        models = client.search_logged_models(
            [run.experiment_id], filter_string=f"source_run_id = '{run.run_id}'"
        )
    ready = [model.model_id for model in models if str(model.status) == "READY"]
    return ready[0] if ready else None


def _find_version(
    client: "MlflowClient", run: RecordedRun, model_id: str | None
) -> tuple[str, str] | None:
    if model_id is None:
        return None
    with translate_tracking_errors(f"the versions of run {run.run_id} cannot be found"):
        versions = client.search_model_versions(f"run_id = '{run.run_id}'")
    return next(((str(item.name), str(item.version)) for item in versions), None)


def read_timestamps(client: "MlflowClient", run_id: str) -> dict[tuple[str, int], int]:
    """Return the timestamps of the values that the store has, by metric and step, in ms since 1970.

    System metrics are left out: a resumed run continues their steps.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"the metrics of run {run_id} cannot be read"):
        names = client.get_run(run_id).data.metrics
        own = [name for name in names if not name.startswith(SYSTEM_PREFIX)]
        values = [v for name in own for v in client.get_metric_history(run_id, name)]
    return {(v.key, v.step): v.timestamp for v in sorted(values, key=lambda v: -v.timestamp)}
