"""`mlflow run` on this project, as a user calls it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from tests.conftest import write_classes

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "shufflenet_v2_x0_5"


def mlflow_run(store: str, folder: Path, **parameters: object) -> list[str]:
    """The command line of `mlflow run` and the folder that it is called from."""
    given = [text for k, v in parameters.items() for text in ("-P", f"{k}={v}")]
    mlflow_command = str(Path(sys.executable).with_name("mlflow"))
    return [mlflow_command, "run", str(ROOT), "--env-manager=local", *given]


def environment(store: str) -> dict[str, str]:
    """The tests' interpreter first on the path, and the store's absolute address."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": store}


def only_experiment(store: str) -> str:
    """The id of the tests' experiment."""
    experiment = mlflow.MlflowClient(store).get_experiment_by_name("tests")
    assert experiment is not None
    return str(experiment.experiment_id)


def only_run(store: str) -> Run:
    """The one run of the tests' experiment."""
    (run,) = mlflow.MlflowClient(store).search_runs([only_experiment(store)])
    return run


def test_project_runs_from_another_folder(store: str, tmp_path: Path) -> None:
    """One run, with MLflow's own record of the parameters as typed, and ours beside it."""
    train = write_classes(tmp_path / "a folder" / "train", {"a": 8, "b": 8})
    valid = write_classes(tmp_path / "a folder" / "valid", {"a": 2, "b": 2}, seed=90)
    command = mlflow_run(
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
        command, cwd=tmp_path, env=environment(store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "1e-3"
    assert run.data.params["resolved_image_size"] == "32"
    assert mlflow.MlflowClient(store).get_model_version("ab", "1").run_id == run.info.run_id


def test_project_searches(store: str, tmp_path: Path) -> None:
    """`-e search` fills the run that MLflow opened, with a nested run a trial."""
    train = write_classes(tmp_path / "train", {"a": 8, "b": 8})
    command = mlflow_run(
        store, tmp_path, train_data=train, epochs=1, model=NETWORK, batch_size="4,8", trials=2
    )
    done = subprocess.run(
        [*command, "-e", "search"],
        cwd=tmp_path,
        env=environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = mlflow.MlflowClient(store).search_runs([only_experiment(store)])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert parents[0].data.params["batch_size"] == "4,8"


def test_bad_parameter_fails_the_run(store: str, tmp_path: Path) -> None:
    """Our two lines are shown, and the run that MLflow opened is FAILED."""
    done = subprocess.run(
        mlflow_run(store, tmp_path, epochs=0),
        cwd=tmp_path,
        env=environment(store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Error: InvalidParameterError: epochs=0" in done.stderr
    assert only_run(store).info.status == "FAILED"


@pytest.mark.parametrize("moment", ["before the epochs", "in the epochs"])
def test_interrupted_project_is_killed(store: str, tmp_path: Path, moment: str) -> None:
    """Ctrl-C on `mlflow run` ends the run as KILLED and leaves no child behind."""
    train = write_classes(tmp_path / "train", {"a": 8, "b": 8})
    command = mlflow_run(
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
        env=environment(store),
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
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while only_run(store).info.status != "KILLED" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert only_run(store).info.status == "KILLED", said
