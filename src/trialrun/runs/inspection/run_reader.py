"""A training run as MLflow remembers it: settings, data, histories, environment."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.config import TrainConfig, list_settings
from trialrun.errors import TrackingError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.versions import MODEL_SCHEMES, find_origin, read_artifact_text
from trialrun.runs.training.environment import ENVIRONMENT, parse_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PROJECT_TAG = "mlflow.project.entryPoint"
_COMMIT_TAG = "mlflow.source.git.commit"


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """An input of a run."""

    name: str
    context: str
    digest: str


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What is read once of a run."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    params: Mapping[str, str]  # as typed, without the shell quotes of `mlflow run`
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # the last values
    datasets: tuple[DatasetInput, ...]

    @property
    def commit(self) -> str | None:
        """The commit of the code, where it ran from a checkout."""
        return self.tags.get(_COMMIT_TAG)

    def settings(self) -> dict[str, str]:
        """The settings of `train` among the parameters."""
        names = {item.name for item in list_settings(TrainConfig)}
        return {name: text for name, text in self.params.items() if name in names}


def find_run_id(client: "MlflowClient", name: str) -> str:
    """The run that `name` (its id, runs:/ID or models:/NAME/VERSION) means: the one that trained.

    Raises:
        TrackingError: There is no such model, or none that a run trained.
    """
    if not name.startswith(MODEL_SCHEMES):
        return name
    run_id = find_origin(client, name).run_id
    if run_id is None:
        raise TrackingError(f"{name} names no run that trained it", "Give a run's id.")
    return run_id


def read_run(client: "MlflowClient", run_id: str) -> RecordedRun:
    """The run `run_id`.

    Raises:
        TrackingError: There is no such run, or the store fails.
    """
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        run = client.get_run(run_id)
    tags = dict(run.data.tags)
    params = dict(run.data.params)
    if _PROJECT_TAG in tags:
        params = {name: unquote_param(text) for name, text in params.items()}
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        params=params,
        tags=tags,
        metrics=dict(run.data.metrics),
        datasets=tuple(
            DatasetInput(
                item.dataset.name,
                next((tag.value for tag in item.tags if tag.key == "mlflow.data.context"), ""),
                item.dataset.digest,
            )
            for item in inputs
        ),
    )


def unquote_param(text: str) -> str:
    """A parameter as it was typed: `mlflow run` records it quoted for the shell."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    return words[0] if len(words) == 1 and shlex.quote(words[0]) == text else text


def read_metric_history(client: "MlflowClient", run_id: str, metric: str) -> dict[int, float]:
    """A metric by epoch; of several values at one epoch the last given.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"the metrics of run {run_id} cannot be read"):
        values = client.get_metric_history(run_id, metric)
    return {value.step: value.value for value in sorted(values, key=lambda v: v.timestamp)}


def read_environment(client: "MlflowClient", run_id: str) -> dict[str, Any] | None:
    """What the run computed with; None where it did not record it.

    Raises:
        TrackingError: The store fails.
    """
    text = read_artifact_text(client, run_id, ENVIRONMENT)
    return None if text is None else parse_environment(text)
