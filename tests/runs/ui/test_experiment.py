"""The experiment that MLflow's UI shows."""

import json

import mlflow
import pytest

from trialrun.errors import InvalidParameterError
from trialrun.runs.ui.experiment import find_experiment, write_view
from trialrun.runs.ui.view import VIEW_TAG


def log_run(client: mlflow.MlflowClient, name: str, parent: str = "", **params: object) -> str:
    """Create a run with parameters; return its id."""
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {"mlflow.parentRunId": parent} if parent else {}
    run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
    for key, value in params.items():
        client.log_param(run_id, key, value)
    return run_id


def test_experiment_of_the_newest_run_is_shown(store: str) -> None:
    """No experiment has to be named after a training."""
    client = mlflow.MlflowClient(store)
    for name in ("first", "second"):
        log_run(client, name)
    found = find_experiment(client, None)
    assert found is not None
    assert found.name == "second"


def test_empty_store_has_no_experiment_to_show(store: str) -> None:
    """The page then lists the experiments."""
    assert find_experiment(mlflow.MlflowClient(store), None) is None


def test_unknown_experiment_is_an_error_with_the_known_ones(store: str) -> None:
    """A misspelt name is seen at once."""
    with pytest.raises(InvalidParameterError, match="experiment=test is not") as caught:
        find_experiment(mlflow.MlflowClient(store), "test")
    assert "tests" in caught.value.hint


def test_searched_settings_differ_between_the_trials_of_the_newest_search(store: str) -> None:
    """Neither the seed nor what another search or the parent run has set counts."""
    client = mlflow.MlflowClient(store)
    log_run(client, "tests", log_run(client, "tests"), epochs=9, learning_rate=0.1)
    parent = log_run(client, "tests", learning_rate="0.01:0.1", epochs=5)
    for number, rate in enumerate((0.01, 0.02)):
        settings = {"learning_rate": rate, "epochs": 5, "random_seed": number}
        log_run(client, "tests", parent, **settings)
    found = find_experiment(client, "tests")
    assert found is not None
    assert found.searched == ("learning_rate",)


def test_view_and_kind_of_the_experiment_are_written(store: str) -> None:
    """The page lists the view under its name and opens the tabs for training."""
    client = mlflow.MlflowClient(store)
    log_run(client, "tests")
    found = find_experiment(client, "tests")
    assert found is not None
    write_view(client, found, 5)
    tags = client.get_experiment(found.experiment_id).tags
    assert json.loads(tags[VIEW_TAG])["name"] == "trialrun"
    assert tags["mlflow.experimentKind"] == "custom_model_development"
