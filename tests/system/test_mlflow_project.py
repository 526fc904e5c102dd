"""`mlflow run` on this project, as a user calls it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

import trialrun
from tests.conftest import write_classes
from tests.system.test_signals import start

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "shufflenet_v2_x0_5"


def build_command(store: str, folder: Path, **parameters: object) -> list[str]:
    """Return the command line of `mlflow run`."""
    given = [text for k, v in parameters.items() for text in ("-P", f"{k}={v}")]
    mlflow_command = str(Path(sys.executable).with_name("mlflow"))
    return [mlflow_command, "run", str(ROOT), "--env-manager=local", *given]


def build_environment(store: str) -> dict[str, str]:
    """Put the tests' interpreter first on PATH, and set the tracking store."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": store}


def find_experiment_id(store: str) -> str:
    """Return the id of the tests' experiment."""
    experiment = mlflow.MlflowClient(store).get_experiment_by_name("tests")
    assert experiment is not None
    return str(experiment.experiment_id)


def read_only_run(store: str) -> Run:
    """Return the only run of the tests' experiment."""
    (run,) = mlflow.MlflowClient(store).search_runs([find_experiment_id(store)])
    return run


@pytest.mark.slow
def test_project_runs_from_another_folder(store: str, tmp_path: Path) -> None:
    """One run has MLflow's record of the parameters as typed, and ours."""
    train = write_classes(tmp_path / "a folder" / "train", {"a": 8, "b": 8})
    valid = write_classes(tmp_path / "a folder" / "valid", {"a": 2, "b": 2}, seed=90)
    command = build_command(
        store,
        tmp_path,
        train_data=train,
        valid_data=valid,
        epochs=1,
        batch_size=4,
        learning_rate="1e-3",
        random_seed=-5,
        model=NETWORK,
        register_as="ab",
    )
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=build_environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = read_only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "1e-3"
    assert run.data.params["resolved_image_size"] == "32"
    assert mlflow.MlflowClient(store).get_model_version("ab", "1").run_id == run.info.run_id


@pytest.mark.slow
def test_project_searches(store: str, tmp_path: Path) -> None:
    """`-e search` uses the run that MLflow opened, with one nested run per trial."""
    train = write_classes(tmp_path / "train", {"a": 8, "b": 8})
    command = build_command(
        store, tmp_path, train_data=train, epochs=1, model=NETWORK, batch_size="4,8", trials=2
    )
    done = subprocess.run(
        [*command, "-e", "search"],
        cwd=tmp_path,
        env=build_environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = mlflow.MlflowClient(store).search_runs([find_experiment_id(store)])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert parents[0].data.params["batch_size"] == "4,8"


@pytest.mark.slow
def test_invalid_parameter_fails_the_run(store: str, tmp_path: Path) -> None:
    """The output has our error, and the run that MLflow opened is FAILED."""
    done = subprocess.run(
        build_command(store, tmp_path, epochs=0),
        cwd=tmp_path,
        env=build_environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Error: InvalidParameterError: epochs=0" in done.stderr
    assert read_only_run(store).info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the epochs", "in the epochs"])
def test_interrupted_project_is_killed(store: str, tmp_path: Path, moment: str) -> None:
    """Ctrl-C on `mlflow run` ends the run as KILLED and leaves no child process."""
    train = write_classes(tmp_path / "train", {"a": 8, "b": 8})
    command = build_command(
        store,
        tmp_path,
        train_data=train,
        epochs=100000,
        patience=100000,
        batch_size=4,
        model=NETWORK,
    )
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=build_environment(store),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    sign = "Run " if moment == "before the epochs" else "Epoch 2/"
    assert process.stderr is not None
    try:
        while not process.stderr.readline().startswith(sign):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while read_only_run(store).info.status != "KILLED" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert read_only_run(store).info.status == "KILLED", stderr


@pytest.mark.slow
def test_interrupted_project_is_resumed_by_its_entry_point(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """`-e resume` finishes the run after SIGTERM to `mlflow run` alone; its own run says so."""
    settings: dict[str, Any] = {"epochs": 8, "patience": 8, "batch_size": 2, "model": NETWORK}
    whole = trialrun.train(train_data=str(colors), **settings)
    command = build_command(store, tmp_path, train_data=colors, **settings)
    environment = build_environment(store)
    with start(command, tmp_path) as started:
        started.process.terminate()
        started.wait_for_end()
    client = mlflow.MlflowClient(store)
    experiment = find_experiment_id(store)
    [stopped] = client.search_runs([experiment], "status = 'KILLED'")
    resume = build_command(store, tmp_path, run_id=stopped.info.run_id)
    done = subprocess.run(
        [*resume, "-e", "resume"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "resumed at epoch" in done.stderr
    resumed = client.get_run(stopped.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert resumed.data.tags["weights_sha256"] == whole.weights_sha256
    [own] = client.search_runs(
        [experiment], f"tags.`trialrun.resumed_run` = '{stopped.info.run_id}'"
    )
    assert (own.info.status, own.info.run_name) == (
        "FINISHED",
        f"resume of {stopped.info.run_name}",
    )
    assert len(client.search_runs([experiment])) == 3
