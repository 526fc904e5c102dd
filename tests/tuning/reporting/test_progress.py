"""The metrics of a search's parent run."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import trialrun
from tests.tuning.conftest import nested_runs, settings
from trialrun.tracking import TrackedRun
from trialrun.tuning.objectives import Objective
from trialrun.tuning.reporting.progress import list_progress, log_progress

LOSS = (Objective("valid_loss", "minimize"),)
START = datetime(2026, 11, 28)


def make_trial(number: int, loss: float, accuracy: float, **more: Any) -> FrozenTrial:
    """Return a completed trial of two seconds, or what `more` says."""
    result = {"best_epoch": number + 1, "metrics": {"valid_loss": loss, "valid_accuracy": accuracy}}
    trial = optuna.trial.create_trial(value=loss, user_attrs={"result": result})
    trial.number = number
    trial.datetime_start = START + timedelta(seconds=10 * number)
    trial.datetime_complete = trial.datetime_start + timedelta(seconds=2)
    for name, value in more.items():
        setattr(trial, name, value)
    return trial


def open_parent(store: str) -> TrackedRun:
    """Return a new run of the store."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return TrackedRun(client, client.create_run(experiment.experiment_id).info.run_id)


def read_history(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    """Return the steps and values of a metric, in the order of the steps."""
    history = run.client.get_metric_history(run.run_id, name)
    return sorted((item.step, item.value) for item in history)


def test_best_values_are_those_of_the_best_trial_so_far() -> None:
    """The accuracy belongs to the trial with the lowest loss, and may fall."""
    trials = [make_trial(0, 0.5, 0.8), make_trial(1, 0.4, 0.7), make_trial(2, 0.6, 0.9)]
    rows = [values for _, _, values in list_progress(trials, LOSS)]
    assert [row["trial_valid_loss"] for row in rows] == [0.5, 0.4, 0.6]
    assert [row["best_valid_loss"] for row in rows] == [0.5, 0.4, 0.4]
    assert [row["best_valid_accuracy"] for row in rows] == [0.8, 0.7, 0.7]
    assert [row["best_epoch"] for row in rows] == [1, 2, 2]


def test_failed_trials_add_their_time_only() -> None:
    """They have no value, and their number has no step."""
    failed = make_trial(1, 0.1, 1.0, state=TrialState.FAIL)
    trials = [make_trial(0, 0.5, 0.8), failed, make_trial(2, 0.6, 0.9)]
    rows = list(list_progress(trials, LOSS))
    assert [number for number, _, _ in rows] == [0, 2]
    assert [values["training_seconds"] for _, _, values in rows] == [2, 6]


def test_objectives_have_metrics_of_their_own() -> None:
    """A search for speed shows the highest speed so far."""
    speed = (Objective("train_images_per_second", "maximize"),)
    trials = [make_trial(0, 0.5, 0.8, values=[30.0]), make_trial(1, 0.4, 0.9, values=[20.0])]
    last = [values for _, _, values in list_progress(trials, speed)][-1]
    assert last["trial_train_images_per_second"] == 20
    assert last["best_train_images_per_second"] == 30
    assert last["best_valid_loss"] == 0.5


def test_progress_is_logged_once_per_trial(store: str) -> None:
    """A resumed search adds its new trials."""
    run = open_parent(store)
    trials = [make_trial(0, 0.5, 0.8), make_trial(1, 0.4, 0.7)]
    log_progress(run, trials, LOSS)
    log_progress(run, [*trials, make_trial(2, 0.3, 0.9)], LOSS)
    assert read_history(run, "best_valid_loss") == [(0, 0.5), (1, 0.4), (2, 0.3)]


def test_more_trials_than_one_call_takes_are_logged(store: str) -> None:
    """MLflow takes a thousand values per call."""
    run = open_parent(store)
    log_progress(run, [make_trial(number, 0.5, 0.8) for number in range(300)], LOSS)
    assert len(read_history(run, "best_epoch")) == 300


@pytest.mark.slow
def test_parent_run_has_the_datasets_and_the_model_of_its_best_trial(
    store: str, colors: Path
) -> None:
    """Its page in MLflow links them, and the version that was registered."""
    result = trialrun.search(**settings(colors, trials=2, register_as="colors"))
    client = mlflow.MlflowClient(store)
    parent, best = client.get_run(result.run_id), client.get_run(result.best_run_id)
    assert parent.inputs is not None
    assert parent.outputs is not None
    assert best.inputs is not None
    datasets = [
        {item.dataset.digest for item in inputs.dataset_inputs}
        for inputs in (parent.inputs, best.inputs)
    ]
    assert datasets[0] == datasets[1] != set()
    (output,) = parent.outputs.model_outputs
    assert f"models:/{output.model_id}" == result.model_uri
    versions = client.get_logged_model(output.model_id).tags["mlflow.modelVersions"]
    assert versions == '[{"name": "colors", "version": "1"}]'


@pytest.mark.slow
def test_parent_run_has_few_tags_and_short_seeds(store: str, colors: Path) -> None:
    """The seeds of trials count from the search's; its run says so."""
    result = trialrun.search(**settings(colors, trials=2, random_seed=5))
    tags = mlflow.MlflowClient(store).get_run(result.run_id).data.tags
    shown = {name for name in tags if not name.startswith(("mlflow.", "trialrun."))}
    assert shown == {
        *("study", "trials", "trial_seeds"),
        *("best_trial", "best_run_id", "best_settings", "weights_sha256"),
    }
    assert tags["trials"] == "2 complete"
    runs = nested_runs(store, result.run_id)
    assert [run.data.params["random_seed"] for run in runs] == ["5", "6"]
