"""Experiments: found or created, and described."""

from contextlib import suppress
from typing import TYPE_CHECKING

from trialrun.errors import TrackingError, TrialrunError
from trialrun.mlflow_client.errors import translate_tracking_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "valid_accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}
_NO_EXPERIMENT = "the active experiment cannot be opened"


def find_experiment_id(client: "MlflowClient", name: str | None) -> str:
    """Return the id of the experiment `name`, which is created if it does not exist.

    None is MLflow's active experiment: that of `mlflow.set_experiment`, else
    MLFLOW_EXPERIMENT_NAME (created if it does not exist) or MLFLOW_EXPERIMENT_ID, else Default.

    Raises:
        TrackingError: The experiment was deleted, or the store fails.
    """
    with translate_tracking_errors(
        f"experiment {name} cannot be opened" if name else _NO_EXPERIMENT
    ):
        experiment = client.get_experiment(_find_experiment(client, name))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {experiment.name} was deleted", "Restore it, or choose another experiment."
        )
    return str(experiment.experiment_id)


def _find_experiment(client: "MlflowClient", name: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return _find_or_create_experiment(client, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _find_or_create_experiment(client, name)  # another process has created it since


def _find_or_create_experiment(client: "MlflowClient", name: str | None) -> str:
    if name is None:
        from mlflow.tracking.fluent import _get_experiment_id

        return str(_get_experiment_id())
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def describe_experiment(client: "MlflowClient", experiment_id: str) -> None:
    """Set the tags that MLflow's experiment page uses for training runs, unless they are set.

    Errors are ignored: MLflow rejects a tag that two processes set at once, and the page is not
    worth failing a run for.
    """
    with suppress(TrialrunError), translate_tracking_errors("the experiment cannot be described"):
        tags = client.get_experiment(experiment_id).tags
        for name, value in _EXPERIMENT_TAGS.items():
            if name not in tags:
                client.set_experiment_tag(experiment_id, name, value)
