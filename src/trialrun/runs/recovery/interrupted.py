"""Finds runs that were interrupted: killed, failed, or left as RUNNING by a dead process."""

from typing import TYPE_CHECKING

from trialrun.checkpoint.run_folder import FOLDER_TAG
from trialrun.errors import TrackingError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.tracking import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NOT_FINISHED = "attributes.status != 'FINISHED'"
_MAX_RUNS = 1000


def find_last_interrupted(client: "MlflowClient") -> str:
    """Return the id of the newest training run of the store that has not finished.

    Trials of a search are left out: the search continues them.

    Raises:
        TrackingError: The store has none, or fails.
    """
    runs = list_interrupted(client)
    if not runs:
        raise TrackingError(
            "the tracking store has no interrupted training run", "Name a run: its id."
        )
    return str(runs[0].info.run_id)


def list_interrupted(client: "MlflowClient") -> "list[Run]":
    """Return the training runs that have not finished, the newest first, without trials.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors("interrupted runs cannot be listed"):
        experiments = [item.experiment_id for item in client.search_experiments()]
        runs = client.search_runs(
            experiments,
            filter_string=_NOT_FINISHED,
            max_results=_MAX_RUNS,
            order_by=["attributes.start_time DESC"],
        )
    return [run for run in runs if FOLDER_TAG in run.data.tags and PARENT_TAG not in run.data.tags]
