"""Creation of MLflow runs: new ones, those that `mlflow run` opened, and those without a store."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trialrun.mlflow_client import find_experiment_id, translate_tracking_errors
from trialrun.mlflow_client.tracking_uri import RUN_ID_VARIABLE
from trialrun.tracking.records import CREATE, Record
from trialrun.tracking.replay import OFFLINE_TAG, now_ms
from trialrun.tracking.system_metrics import PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_TAG = "mlflow.parentRunId"
_EXPERIMENT_ID_VARIABLE = "MLFLOW_EXPERIMENT_ID"
_EXPERIMENT_NAME_VARIABLE = "MLFLOW_EXPERIMENT_NAME"

_used_project_runs: set[str] = set()  # runs that `mlflow run` opened and this process has used


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run when it is opened."""

    run_id: str
    experiment_id: str
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    next_system_step: int = 0
    start_ms: int = 0  # since 1970; 0 if it is not known


def describe_run(run: "Run") -> RunFacts:
    """Return the facts of a run of the store."""
    steps = [item.step for item in run.data._metric_objs if item.key.startswith(PREFIX)]
    return RunFacts(
        str(run.info.run_id),
        str(run.info.experiment_id),
        str(run.info.run_name),
        dict(run.data.params),
        max(steps, default=-1) + 1,
        int(run.info.start_time or 0),
    )


def read_run(client: "MlflowClient", run_id: str) -> RunFacts:
    """Read the facts of a run.

    Raises:
        TrackingError: The store fails, or does not have the run.
    """
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        return describe_run(client.get_run(run_id))


def find_project_run() -> str | None:
    """Return the id of the run that `mlflow run` opened for this process, if any."""
    return os.environ.get(RUN_ID_VARIABLE) or None


def take_project_run() -> str | None:
    """Return the id of the project run on the first call only: later runs must not write to it."""
    run_id = find_project_run()
    if run_id is None or run_id in _used_project_runs:
        return None
    _used_project_runs.add(run_id)
    return run_id


def describe_project_run(client: "MlflowClient", name: str, tags: Mapping[str, str]) -> None:
    """Name and tag the run that `mlflow run` opened for a command that writes to another run.

    Raises:
        TrackingError: The store fails.
    """
    run_id = find_project_run()
    if run_id is None:
        return
    with translate_tracking_errors(f"run {run_id} cannot be described"):
        client.update_run(run_id, name=name)
        for key, text in tags.items():
            client.set_tag(run_id, key, text)


def create_active_run(
    client: "MlflowClient", experiment: str | None, name: str | None, tags: Mapping[str, str]
) -> "Run":
    """Create a run as `mlflow.start_run(nested=True)` would in the calling thread."""
    import mlflow

    parent = mlflow.active_run()
    if parent is None:
        return create_run(client, find_experiment_id(client, experiment), name, tags)
    experiment_id = (
        parent.info.experiment_id if experiment is None else find_experiment_id(client, experiment)
    )
    return create_run(client, experiment_id, name, {**tags, PARENT_TAG: parent.info.run_id})


def create_run(
    client: "MlflowClient", experiment_id: str, name: str | None, tags: Mapping[str, str]
) -> "Run":
    """Create a run with MLflow's tags of the program and its user.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.tracking.context.registry import resolve_tags

    with translate_tracking_errors("the run cannot be opened"):
        return client.create_run(experiment_id, run_name=name, tags=resolve_tags(dict(tags)))


def plan_run(
    offline_id: str,
    *,
    experiment: str | None,
    experiment_id: str | None,
    name: str | None,
    tags: Mapping[str, str],
) -> Record:
    """Return the record of a run that `trialrun sync` creates.

    It gets the experiment and the parent that it would have got now.
    """
    import mlflow
    from mlflow.tracking.context.registry import resolve_tags
    from mlflow.utils.name_utils import _generate_random_name

    parent = mlflow.active_run() if experiment_id is None else None
    own_tags = {**tags, OFFLINE_TAG: offline_id}
    if parent is not None:
        own_tags[PARENT_TAG] = parent.info.run_id
    values: dict[str, Any] = {
        **_plan_experiment(experiment, experiment_id, parent),
        "name": name or _generate_random_name(),
        "tags": resolve_tags(own_tags),
        "start_time": now_ms(),
    }
    return Record(CREATE, values)


def _plan_experiment(
    experiment: str | None, experiment_id: str | None, parent: "Run | None"
) -> dict[str, str | None]:
    """Return name or id of the experiment, by the rules of `find_experiment_id`."""
    from mlflow.tracking import fluent

    if experiment is not None:
        return {"experiment": experiment, "experiment_id": None}
    if parent is not None:
        experiment_id = str(parent.info.experiment_id)
    found = experiment_id or fluent._active_experiment_id  # of `mlflow.set_experiment`
    if found is None and (name := os.environ.get(_EXPERIMENT_NAME_VARIABLE)):
        return {"experiment": name, "experiment_id": None}
    found = found or os.environ.get(_EXPERIMENT_ID_VARIABLE) or "0"
    return {"experiment": None, "experiment_id": str(found)}
