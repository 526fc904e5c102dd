"""A program that starts many processes, which make the same first write at the same moment.

    python -m tests.tracking.together datasets|versions|experiments|stores URI NUM_PROCESSES

The processes are forked after the imports and print nothing; the exit code is the number of those
that failed.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag

from trialrun.mlflow_client import connect_client, find_experiment_id
from trialrun.registry import LoggedModel, register_version
from trialrun.tracking import TrackedRun

EXPERIMENT = "together"
SQLITE = "sqlite:///"


def log_dataset(client: mlflow.MlflowClient, wait: Callable[[], Any]) -> None:
    """Log the dataset that all processes log."""
    run_id = client.create_run(find_experiment_id(client, EXPERIMENT)).info.run_id
    dataset = Dataset("train", "digest", "local", "{}", "{}", "{}")
    run = TrackedRun(client, run_id)
    wait()
    run.log_inputs([DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def register(client: mlflow.MlflowClient, wait: Callable[[], Any]) -> None:
    """Register a version of the model that all processes register."""
    experiment_id = find_experiment_id(client, EXPERIMENT)
    run_id = client.create_run(experiment_id).info.run_id
    model = client.create_logged_model(experiment_id, name="model", source_run_id=run_id)
    wait()
    logged = LoggedModel(model.model_id)
    register_version(client, logged, name="new", run_id=run_id, tags={}, card="")


def create_experiment(client: mlflow.MlflowClient, wait: Callable[[], Any]) -> None:
    """Open the experiment that all processes create."""
    client.search_experiments(max_results=1)
    wait()
    find_experiment_id(client, EXPERIMENT)


def open_store(client: mlflow.MlflowClient, wait: Callable[[], Any]) -> None:
    """Do nothing more: the processes connect at the same moment."""


ACTIONS = {
    "stores": open_store,
    "datasets": log_dataset,
    "versions": register,
    "experiments": create_experiment,
}


def run_action(name: str, uri: str, barrier: Any) -> None:
    """Run an action in this process."""
    mlflow.set_tracking_uri(uri)
    if name == "stores":
        barrier.wait(120)
    ACTIONS[name](connect_client(), lambda: barrier.wait(120))


def import_store(database: Path) -> None:
    """Open another database, so that the processes do not import MLflow's store each.

    It is a copy of `database` if that is a file: creating the tables takes seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "mlflow.db"
        if database.is_file():
            shutil.copy(database, other)
        mlflow.MlflowClient(f"{SQLITE}{other}").search_experiments(max_results=1)


def main(name: str, uri: str, num_processes: int) -> int:
    """Run an action in many processes at once; return the number of those that failed."""
    if not uri.startswith("http"):
        import_store(Path(uri.removeprefix(SQLITE)))
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(num_processes)
    processes = [
        context.Process(target=run_action, args=(name, uri, barrier)) for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # its thread does not survive the fork
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
