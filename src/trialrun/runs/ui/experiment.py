"""The experiment that MLflow's UI shows: found, read and given its view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trialrun.config import TrainConfig, list_settings
from trialrun.errors import InvalidParameterError
from trialrun.mlflow_client import describe_experiment, translate_tracking_errors
from trialrun.runs.ui.view import VIEW_TAG, format_view
from trialrun.tracking import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_MAX_RUNS = 200  # that are read to see which settings differ
_NEWEST_FIRST = ["attributes.start_time DESC"]
_NO_STORE = "the experiments cannot be read"


@dataclass(frozen=True, slots=True)
class ShownExperiment:
    """An experiment and the settings that differ between the trials of its newest search."""

    experiment_id: str
    name: str
    searched: tuple[str, ...]


def find_experiment(client: "MlflowClient", name: str | None) -> ShownExperiment | None:
    """Return the experiment to show; None if the store has no runs and none is named.

    Raises:
        InvalidParameterError: There is no such experiment.
        TrackingError: The store fails.
    """
    with translate_tracking_errors(_NO_STORE):
        names = {str(item.experiment_id): str(item.name) for item in client.search_experiments()}
        if name is None:
            newest = client.search_runs(list(names), order_by=_NEWEST_FIRST, max_results=1)
            ids = [str(run.info.experiment_id) for run in newest]
        elif not (ids := [number for number, known in names.items() if known == name]):
            raise InvalidParameterError(
                f"experiment={name} is not in the tracking store",
                f"Its experiments are: {', '.join(names.values())}.",
            )
        if not ids:
            return None
        searched = _find_searched(_list_trials(client, ids[0]))
    return ShownExperiment(ids[0], names[ids[0]], searched)


def _list_trials(client: "MlflowClient", experiment_id: str) -> "list[Run]":
    """Return the newest search's trials, or the newest runs if there is no search."""
    runs = list(client.search_runs([experiment_id], max_results=_MAX_RUNS, order_by=_NEWEST_FIRST))
    parents = [run.data.tags.get(PARENT_TAG) for run in runs]
    newest = next(filter(None, parents), None)
    return [run for run, parent in zip(runs, parents, strict=True) if parent == newest]


def _find_searched(runs: "Sequence[Run]") -> tuple[str, ...]:
    """Return the settings that differ between runs, except those that no search can vary."""
    names = [item.name for item in list_settings(TrainConfig) if item.rule.searchable]
    return tuple(
        name for name in names if len({run.data.params.get(name) for run in runs} - {None}) > 1
    )


def write_view(client: "MlflowClient", experiment: ShownExperiment, now_ms: int) -> None:
    """Write the view to the experiment's tags, and mark it as one of model training.

    Raises:
        TrackingError: The store fails.
    """
    describe_experiment(client, experiment.experiment_id)
    with translate_tracking_errors("the view cannot be written"):
        value = format_view(experiment.searched, now_ms)
        client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, value)
