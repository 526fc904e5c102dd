"""Reads training runs from MLflow: settings, datasets, metric histories and environment."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.config import TrainConfig, list_settings
from trialrun.config.record import SETTINGS_FILE, parse_record
from trialrun.errors import TrackingError, summarize_error
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.versions import MODEL_SCHEMES, find_origin, read_artifact_text
from trialrun.runs.training.environment import ENVIRONMENT, parse_environment
from trialrun.tracking import MAX_PARAM_LENGTH

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PROJECT_TAG = "mlflow.project.entryPoint"
_COMMIT_TAG = "mlflow.source.git.commit"


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A dataset input of a run."""

    name: str
    context: str
    digest: str


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """The parts of a run that one request to MLflow returns."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    params: Mapping[str, str]  # as typed, without the shell quotes of `mlflow run`
    cut_params: frozenset[str]  # names of those that MLflow may have cut to its limit
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # last values
    datasets: tuple[DatasetInput, ...]

    @property
    def commit(self) -> str | None:
        """The Git commit of the code; None if the run was not started from a checkout."""
        return self.tags.get(_COMMIT_TAG)


def find_run_id(client: "MlflowClient", name: str) -> str:
    """Return the id of a training run, given by id or by its model (runs:/ID, models:/NAME/3).

    Raises:
        TrackingError: The model does not exist, or MLflow does not know the run that trained it.
    """
    if not name.startswith(MODEL_SCHEMES):
        return name
    run_id = find_origin(client, name).run_id
    if run_id is None:
        raise TrackingError(f"the run that trained {name} is not recorded", "Give a run's id.")
    return run_id


def read_run(client: "MlflowClient", run_id: str) -> RecordedRun:
    """Read the run `run_id`.

    Raises:
        TrackingError: The run does not exist, or the store fails.
    """
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        run = client.get_run(run_id)
    tags = dict(run.data.tags)
    params = dict(run.data.params)
    cut_params = frozenset(name for name, text in params.items() if len(text) >= MAX_PARAM_LENGTH)
    if _PROJECT_TAG in tags:
        params = {name: unquote_param(text) for name, text in params.items()}
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        params=params,
        cut_params=cut_params,
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


def load_settings(client: "MlflowClient", run: RecordedRun) -> dict[str, str]:
    """Return the exact settings of a training run: from `config.yaml`, else its parameters.

    Raises:
        TrackingError: An earlier version recorded the run, and MLflow cut a setting; or
            `config.yaml` is damaged.
    """
    recorded = read_config(client, run.run_id)
    if recorded is not None:
        return recorded
    names = [item.name for item in list_settings(TrainConfig) if item.name in run.params]
    if cut := [name for name in names if name in run.cut_params]:
        raise TrackingError(
            f"run {run.run_id} has only the first {MAX_PARAM_LENGTH} characters of "
            f"{', '.join(cut)}, and no {SETTINGS_FILE} with the whole text",
            f"Train again: runs of this version record all settings in {SETTINGS_FILE}.",
        )
    return {name: run.params[name] for name in names}


def read_config(client: "MlflowClient", run_id: str) -> dict[str, str] | None:
    """Return the settings in `config.yaml` as texts; None if the run has no such artifact.

    Raises:
        TrackingError: The file is damaged, or the store fails.
    """
    text = read_artifact_text(client, run_id, SETTINGS_FILE)
    try:
        return None if text is None else parse_record(text)
    except ValueError as error:
        raise TrackingError(
            f"{SETTINGS_FILE} of run {run_id} is damaged: {summarize_error(error)}",
            "Restore the artifact, or choose another run.",
        ) from error


def unquote_param(text: str) -> str:
    """Return a parameter as it was typed: `mlflow run` records it quoted for the shell."""
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    return words[0] if len(words) == 1 and shlex.quote(words[0]) == text else text


def read_metric_history(client: "MlflowClient", run_id: str, metric: str) -> dict[int, float]:
    """Return a metric by epoch; the last value if an epoch has several.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"the metrics of run {run_id} cannot be read"):
        values = client.get_metric_history(run_id, metric)
    return {value.step: value.value for value in sorted(values, key=lambda v: v.timestamp)}


def read_environment(client: "MlflowClient", run_id: str) -> dict[str, Any] | None:
    """Return the environment of a run; None if it is not recorded.

    Raises:
        TrackingError: The store fails.
    """
    text = read_artifact_text(client, run_id, ENVIRONMENT)
    return None if text is None else parse_environment(text)
