"""Studies whose runs were deleted in MLflow, and models with unusual names."""

from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.tuning.conftest import claim_next, make_queue, nested_runs, settings
from tests.tuning.reporting.test_parent_run import open_project_run
from trialrun.errors import TrackingError
from trialrun.tuning.reporting.parent_run import end_lost_run, register_best
from trialrun.tuning.study import attrs


def make_study(store: str, colors: Path, parent_run_id: str) -> None:
    """Create a study with this parent run."""
    make_queue(store, colors, study="long").study.set_user_attr(attrs.PARENT_RUN, parent_run_id)


@pytest.mark.slow
def test_study_with_a_deleted_parent_run_is_not_resumed(store: str, colors: Path) -> None:
    """The error says how to restore the run; no trial is trained before."""
    client, parent = mlflow.MlflowClient(store), open_project_run(store)
    make_study(store, colors, parent)
    client.delete_run(parent)
    with pytest.raises(
        TrackingError, match=f"parent run of the study, {parent}, was del"
    ) as caught:
        trialrun.search(**settings(colors, trials=1, study="long"))
    assert f"`mlflow runs restore --run-id {parent}`" in caught.value.hint
    assert "--from-study long" in caught.value.hint
    assert nested_runs(store, parent) == []
    client.restore_run(parent)
    assert trialrun.search(**settings(colors, trials=1, study="long")).run_id == parent


def test_study_of_another_tracking_store_is_not_resumed(store: str, colors: Path) -> None:
    """The parent run is unknown here: the hint names the variable of the store."""
    make_study(store, colors, "0" * 32)
    with pytest.raises(TrackingError, match="is not in this tracking store") as caught:
        trialrun.search(**settings(colors, trials=1, study="long"))
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


@pytest.mark.slow
def test_model_of_a_deleted_trial_run_is_not_registered(store: str, colors: Path) -> None:
    """The version would name a run that nobody can open."""
    values = settings(colors, trials=1, study="long")
    result = trialrun.search(**values)
    client = mlflow.MlflowClient(store)
    client.delete_run(result.best_run_id)
    with pytest.raises(TrackingError, match=f"the best trial, {result.best_run_id}, was deleted"):
        trialrun.search(**values, register_as="long")
    client.restore_run(result.best_run_id)
    assert trialrun.search(**values, register_as="long").model_version == "1"


@pytest.mark.parametrize("exists", [True, False])
def test_deleted_run_of_a_lost_trial_does_not_end_the_search(
    exists: bool, store: str, colors: Path
) -> None:
    """The trial is retried; its run stays deleted."""
    client, run_id = mlflow.MlflowClient(store), open_project_run(store)
    queue = make_queue(store, colors)
    queue.set_attr(claim_next(queue), attrs.RUN_ID, run_id if exists else "0" * 32)
    client.delete_run(run_id)
    [trial] = queue.study.get_trials()
    end_lost_run(client, trial, is_retried=False)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"


@pytest.mark.parametrize("name", ["bob's", 'say "hi"', "back\\slash", "100%", "a`b"])
def test_model_names_with_quotes_are_registered_once(store: str, name: str) -> None:
    """The second call finds the version of the first."""
    client, run_id = mlflow.MlflowClient(store), open_project_run(store)
    experiment_id = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
    uri = f"models:/{model.model_id}"
    numbers = [register_best(client, name=name, model_uri=uri, run_id=run_id) for _ in range(2)]
    assert numbers == ["1", "1"]
    assert register_best(client, name="other", model_uri=uri, run_id=run_id) == "1"
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    assert sorted(version.name for version in versions) == sorted([name, "other"])


def test_model_that_was_sent_after_its_trial_is_found(store: str) -> None:
    """Without an address, the run's model is registered; without a model, the hint names `sync`."""
    client, run_id = mlflow.MlflowClient(store), open_project_run(store)
    with pytest.raises(TrackingError, match="not in the tracking store yet") as raised:
        register_best(client, name="late", model_uri=None, run_id=run_id)
    assert "trialrun sync" in raised.value.hint
    experiment_id = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
    client.finalize_logged_model(model.model_id, "READY")
    assert register_best(client, name="late", model_uri=None, run_id=run_id) == "1"
