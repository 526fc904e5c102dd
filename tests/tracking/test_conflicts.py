"""Runs that are started together and write the same rows for the first time."""

import os
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tests.processes import run_program
from tests.tracking.together import EXPERIMENT
from trialrun.mlflow_client import conflicts, retry_conflicts

ROOT = Path(__file__).resolve().parents[2]  # `tests` is imported from here


def run_together(action: str, uri: str, num_processes: int, folder: Path) -> mlflow.MlflowClient:
    """Run an action in many processes at once in `folder`; return a client of the results."""
    command = [sys.executable, "-m", "tests.tracking.together", action, uri, str(num_processes)]
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = run_program(command, env=variables, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "error ignored" not in done.stderr  # logged by psycopg after each conflict
    return mlflow.MlflowClient(uri)


def list_runs(client: mlflow.MlflowClient) -> list[Run]:
    """Return the runs of the processes."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found: list[Run] = client.search_runs([experiment.experiment_id])
    return found


def check_datasets(uri: str, num_processes: int, folder: Path) -> None:
    """Let many processes log the same new dataset at once; all runs must have it."""
    runs = list_runs(run_together("datasets", uri, num_processes, folder))
    inputs = [
        logged.dataset.digest
        for run in runs
        for logged in (run.inputs.dataset_inputs if run.inputs else [])
    ]
    assert inputs == ["digest"] * num_processes


@pytest.mark.slow
def test_processes_log_the_same_new_dataset_at_once(store: str, tmp_path: Path) -> None:
    """MLflow adds the dataset once and refuses the others that found it missing: they retry."""
    check_datasets(store, 24, tmp_path)


@pytest.mark.slow
def test_processes_register_versions_of_one_model_at_once(store: str, tmp_path: Path) -> None:
    """Each process gets its own version number."""
    client = run_together("versions", store, 12, tmp_path)
    numbers = sorted(int(item.version) for item in client.search_model_versions("name = 'new'"))
    assert numbers == [*range(1, 13)]


@pytest.mark.slow
def test_processes_create_one_experiment_at_once(store: str, tmp_path: Path) -> None:
    """One process creates the experiment, and the others use it."""
    client = run_together("experiments", store, 12, tmp_path)
    assert [item.name for item in client.search_experiments()].count(EXPERIMENT) == 1


def test_other_errors_are_not_retried() -> None:
    """An error that a repetition cannot change is raised immediately."""
    calls = []

    def call() -> None:
        calls.append(1)
        raise MlflowException("no such run")

    with pytest.raises(MlflowException, match="no such run"):
        retry_conflicts(call)
    assert len(calls) == 1


def test_a_lasting_conflict_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries end, so that a broken database does not block a run forever."""
    monkeypatch.setattr(conflicts, "_TIMEOUT_SECONDS", 0.2)

    def call() -> None:
        raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")

    with pytest.raises(MlflowException, match="UNIQUE"):
        retry_conflicts(call)
