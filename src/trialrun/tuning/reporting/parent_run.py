"""What a search does to MLflow's runs other than training: lost trials ended, versions made."""

from typing import TYPE_CHECKING

from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry import LoggedModel, register_version
from trialrun.tracking import PARENT_TAG
from trialrun.tuning.study.trial_queue import RUN_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna.trial import FrozenTrial

_LOST = "the worker was lost"


def end_lost_run(client: "MlflowClient", trial: "FrozenTrial") -> None:
    """End the run of a trial whose worker is gone.

    It may be FINISHED, if the worker died before it could tell so of the trial: another run
    stands for the trial, which is begun again.
    """
    if run_id := trial.user_attrs.get(RUN_ID):
        _end_run(client, run_id, "RUNNING", "FINISHED")


def _end_run(client: "MlflowClient", run_id: str, *among: str) -> None:
    """Call a run KILLED whose status is `among` those."""
    with translate_tracking_errors(f"run {run_id} cannot be ended"):
        if client.get_run(run_id).info.status in among:
            client.set_tag(run_id, "stop_reason", "killed")
            client.set_tag(run_id, "error", _LOST)
            client.set_terminated(run_id, "KILLED")


def end_orphaned_runs(
    client: "MlflowClient", experiment_id: str, parent_run_id: str, running: set[str]
) -> None:
    """End nested runs that nobody trains: a worker may die before its trial knows its run."""
    with translate_tracking_errors("the trials' runs cannot be looked up"):
        found = client.search_runs(
            [experiment_id],
            f"tags.`{PARENT_TAG}` = '{parent_run_id}' and attributes.status = 'RUNNING'",
        )
    for run in found:
        if run.info.run_id not in running:
            _end_run(client, run.info.run_id, "RUNNING")


def register_once(client: "MlflowClient", *, name: str, model_uri: str, run_id: str) -> str:
    """The version of `name` that holds the model, made if there is none yet."""
    model = LoggedModel(model_uri.removeprefix("models:/"))
    with translate_tracking_errors(f"the model cannot be registered as {name}"):
        known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        tags = client.get_logged_model(model.model_id).tags
    if known:
        return str(known[0].version)
    own = {key: text for key, text in tags.items() if not key.startswith("mlflow.")}
    return register_version(client, model, name=name, run_id=run_id, tags=own)
