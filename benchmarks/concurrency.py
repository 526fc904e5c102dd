"""Trainings that start together on new data, with a tracking server: all must finish.

    python -m benchmarks.concurrency [NUM_TRAININGS]

The processes are forked after the imports, to save memory and time. A barrier lets all of them log
the datasets at the same moment, which is when runs conflict.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"

import multiprocessing

import mlflow
import numpy as np
from mlflow.entities import DatasetInput
from PIL import Image

from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.run import train_run
from trialrun.tracking import TrackedRun

NUM_TRAININGS = 80
START_SECONDS, BARRIER_SECONDS = 120, 600


@contextmanager
def run_server(folder: Path) -> Iterator[str]:
    """Run a tracking server with a SQLite database; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # By default 15 connections, for which the requests of 80 processes wait in vain.
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(NUM_TRAININGS),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until_healthy(f"{address}/health")
            yield address
        finally:
            process.terminate()
            process.wait(30)


def wait_until_healthy(address: str) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)
        else:
            return


def write_images(folder: Path) -> Path:
    """Write two classes of eight small images."""
    for label, value in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((32, 32, 3), value + number, np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def train(plan: TrainPlan, num_trainings: int) -> int:
    """Train in many processes that log their datasets together; return how many failed."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(num_trainings)
    log_inputs = TrackedRun.log_inputs

    def wait_and_log(self: TrackedRun, datasets: Sequence[DatasetInput]) -> None:
        barrier.wait(BARRIER_SECONDS)
        log_inputs(self, datasets)

    TrackedRun.log_inputs = wait_and_log  # type: ignore[method-assign]
    processes = [context.Process(target=train_run, args=(plan,)) for _ in range(num_trainings)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    TrackedRun.log_inputs = log_inputs  # type: ignore[method-assign]
    return sum(process.exitcode != 0 for process in processes)


def main() -> None:
    """Start the server, train and print the result."""
    num_trainings = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_TRAININGS
    with tempfile.TemporaryDirectory() as name, run_server(Path(name)) as address:
        mlflow.set_tracking_uri(address)
        os.environ["TRIALRUN_CACHE"] = str(Path(name) / "cache")
        settings = {"model": "shufflenet_v2_x0_5", "epochs": 1, "batch_size": 4, "device": "cpu"}
        images = write_images(Path(name) / "images")
        plan = plan_training({**settings, "train_data": images, "experiment": "together"})
        started = time.perf_counter()
        num_failed = train(plan, num_trainings)
        seconds = time.perf_counter() - started
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("together")
        assert experiment is not None
        statuses = [run.info.status for run in client.search_runs([experiment.experiment_id])]
    print(
        f"{num_trainings} trainings at once: {statuses.count('FINISHED')} finished, "
        f"{num_failed} failed, {seconds:.0f} s"
    )
    sys.exit(num_failed > 0)


if __name__ == "__main__":
    main()
