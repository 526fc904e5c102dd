"""Updates of MLflow beside training: runs of lost trials are ended, the best is registered."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trialrun.engine.early_stopping import KILLED
from trialrun.errors import TrackingError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry import LoggedModel, link_output, register_once
from trialrun.tracking import DELETED, PARENT_TAG, TrackedRun, find_run
from trialrun.tuning.study.attrs import MODEL_URI, RESULT, RUN_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna.trial import FrozenTrial

_LOST_ERROR = "the worker was lost"


def end_lost_run(client: "MlflowClient", trial: "FrozenTrial", is_retried: bool) -> None:
    """End the run of a trial that lost its worker as KILLED.

    The run may be FINISHED if the worker died before it reported the trial. The retry then takes
    over its result; without a retry it does not count, and is KILLED as well.
    """
    if run_id := trial.user_attrs.get(RUN_ID):
        _end_run(client, run_id, *(("RUNNING",) if is_retried else ("RUNNING", "FINISHED")))


def _end_run(client: "MlflowClient", run_id: str, *statuses: str) -> None:
    """Set a run to KILLED if it has one of `statuses`; a deleted run stays as it is."""
    run = find_run(client, run_id)
    if run is None or run.info.lifecycle_stage == DELETED or run.info.status not in statuses:
        return
    with translate_tracking_errors(f"run {run_id} cannot be ended"):
        client.set_tag(run_id, "stop_reason", KILLED)
        client.set_tag(run_id, "error", _LOST_ERROR)
        client.set_terminated(run_id, "KILLED")


def check_not_deleted(client: "MlflowClient", run_id: str, role: str, hint: str) -> None:
    """Check that a run of the study still exists; `role` says which, `hint` how to do without it.

    Raises:
        TrackingError: The run was deleted, in the UI or for good, or the store fails.
    """
    run = find_run(client, run_id)
    if run is None:
        raise TrackingError(
            f"{role}, {run_id}, is not in this tracking store",
            f"Set MLFLOW_TRACKING_URI to the store of the study, or {hint}.",
        )
    if run.info.lifecycle_stage == DELETED:
        raise TrackingError(
            f"{role}, {run_id}, was deleted",
            f"Restore it with `mlflow runs restore --run-id {run_id}`, or {hint}.",
        )


def end_orphaned_runs(
    client: "MlflowClient",
    experiment_id: str,
    parent_run_id: str,
    list_running: Callable[[], set[str]],
) -> None:
    """End running nested runs without a trial: a worker may die before it stores the run's id.

    `list_running` returns the runs of running trials. It is called after the runs are listed: a
    trial names its run before it opens it again.
    """
    with translate_tracking_errors("the trials' runs cannot be listed"):
        nested_runs = client.search_runs(
            [experiment_id],
            f"tags.`{PARENT_TAG}` = '{parent_run_id}' and attributes.status = 'RUNNING'",
        )
    running = list_running()
    for run in nested_runs:
        if run.info.run_id not in running:
            _end_run(client, run.info.run_id, "RUNNING")


def link_best(client: "MlflowClient", run: TrackedRun, best: "FrozenTrial") -> None:
    """Link the parent run to the datasets and to the model of the best trial.

    A model that is still to be sent is not linked.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors("the run of the best trial cannot be read"):
        inputs = client.get_run(best.user_attrs[RUN_ID]).inputs
    if inputs is not None and inputs.dataset_inputs:
        run.log_inputs(inputs.dataset_inputs)
    if uri := best.user_attrs.get(MODEL_URI):
        step = best.user_attrs[RESULT]["best_epoch"]
        link_output(client, _parse_model(uri), run_id=run.run_id, step=step)


def _parse_model(uri: str) -> LoggedModel:
    return LoggedModel(uri.removeprefix("models:/"))


def find_changed_settings(
    client: "MlflowClient", run_id: str, settings: Mapping[str, str]
) -> dict[str, str]:
    """Return the settings, as tags, in which this call differs from what the run has recorded.

    Parameters cannot change; the tag `search.NAME` has the value of the latest call.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        data = client.get_run(run_id).data
    tags = {f"search.{name}": text for name, text in settings.items()}
    recorded = {f"search.{name}": text for name, text in data.params.items()} | data.tags
    return {name: text for name, text in tags.items() if recorded.get(name) != text}


def register_best(client: "MlflowClient", *, name: str, model_uri: str | None, run_id: str) -> str:
    """Return the version of the best trial's model in `name`; register it if necessary.

    Without `model_uri`, the model was sent after its trial had ended.

    Raises:
        TrackingError: The registry fails or rejects the name, or the store lacks the model.
    """
    model = _parse_model(model_uri or _find_model_uri(client, run_id))
    with translate_tracking_errors(f"the model cannot be registered as {name}"):
        tags = client.get_logged_model(model.model_id).tags
        card = client.get_run(run_id).data.tags.get("mlflow.note.content", "")
    own_tags = {key: text for key, text in tags.items() if not key.startswith("mlflow.")}
    return register_once(client, model, name=name, run_id=run_id, tags=own_tags, card=card)


def _find_model_uri(client: "MlflowClient", run_id: str) -> str:
    with translate_tracking_errors("the model of the best trial cannot be found"):
        experiment_id = client.get_run(run_id).info.experiment_id
        models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    ready = [model.model_id for model in models if str(model.status) == "READY"]
    if not ready:
        raise TrackingError(
            f"the model of the best trial, run {run_id}, is not in the tracking store yet",
            "Run `trialrun sync`, then start the same search again.",
        )
    return LoggedModel(ready[0]).uri
