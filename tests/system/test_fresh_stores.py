"""Trainings that start on a store that does not exist, from other folders, and at once."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from tests.processes import ForkedProgram
from tests.system.test_mlflow_project import NETWORK, ROOT

pytestmark = pytest.mark.slow

TRAIN = ["train", "--model", NETWORK, "--epochs", "1", "--batch-size", "8"]


def start_training(colors: Path, folder: Path, uri: str | None) -> ForkedProgram:
    """Start a training in `folder`, with MLflow's default store if `uri` is None."""
    variables = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}
    if uri is not None:
        variables["MLFLOW_TRACKING_URI"] = uri
    command = [sys.executable, "-m", "trialrun", *TRAIN, "--train-data", str(colors)]
    return ForkedProgram(command, cwd=folder, env=variables, stderr=subprocess.PIPE)


def test_eight_trainings_start_at_once_on_a_missing_store(colors: Path, tmp_path: Path) -> None:
    """All finish; the folder of the store is missing too, and its address is relative."""
    started = [
        start_training(colors, tmp_path, "sqlite:///missing/folder/mlflow.db") for _ in range(8)
    ]
    for process in started:
        _, error = process.communicate(timeout=500)
        assert process.returncode == 0, error
    path = tmp_path / "missing" / "folder" / "mlflow.db"
    runs = mlflow.MlflowClient(f"sqlite:///{path}").search_runs(["0"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_fresh_default_store_has_its_artifacts_beside_it(colors: Path, tmp_path: Path) -> None:
    """The folder has a space in its name, which MLflow writes as %20 in its default address."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    process = start_training(colors, folder, None)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    [run] = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["0"])
    assert run.info.artifact_uri.startswith(f"{folder}/mlruns/0/")
    assert [path.name for path in tmp_path.iterdir() if "%20" in path.name] == []


def test_project_in_another_folder_writes_to_the_callers_relative_store(
    colors: Path, tmp_path: Path
) -> None:
    """`mlflow run` creates the run in the caller's folder, and its child finds it there."""
    command = [str(Path(sys.executable).with_name("mlflow")), "run", str(ROOT)]
    command += ["--env-manager=local", "-P", f"train_data={colors}", "-P", f"model={NETWORK}"]
    command += ["-P", "epochs=1", "-P", "batch_size=8"]
    variables = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}
    variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=variables | {"MLFLOW_TRACKING_URI": "sqlite:///own.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [run] = mlflow.MlflowClient(f"sqlite:///{tmp_path}/own.db").search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert not (ROOT / "own.db").exists()
