"""Overhead and results of a search.

    python -m benchmarks.search [PART ...]

Parts: `overhead` (16 trials of 3 epochs on the digits, against their training time and against 16
separate runs), `digits` (the best of 20 trials, and whether it is the registered model), `growth`
(500 trials without training, first 50 against last 50), `workers` (two worker processes against
one). Every figure is a ratio within one run of this program.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

NUM_TRIALS = 16
EPOCHS = 3
NUM_SEPARATE = 6  # trials that are also trained in separate runs; their time is scaled up
NUM_DIGITS_TRIALS = 20
NUM_DUMMY = 500
WORKER_TRIALS = 8

ROOT = Path(__file__).resolve().parents[1]


def main(parts: list[str]) -> None:
    """Measure and print the figures of the parts, of all by default."""
    print(f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    load = os.getloadavg()[0]
    print(f"machine   {platform.machine()}, {os.cpu_count()} processors, load {load:.1f}")
    names = ("trialrun", "optuna", "mlflow", "torch")
    print("versions  " + ", ".join(f"{name} {version(name)}" for name in names), flush=True)
    for part in parts or PARTS:
        for name, value in PARTS[part]().items():
            print(f"{name:<58} {value}", flush=True)


@contextmanager
def scratch_store() -> Iterator[dict[str, str]]:
    """Prepare a new tracking store; yield environment variables that select it."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        env.pop("MLFLOW_RUN_ID", None)
        # One short run first: it makes the store, writes the sample and caches its images.
        run_command(["train", "--epochs", "1", "--model", "shufflenet_v2_x0_5"], env, Path(folder))
        yield env


def run_command(
    arguments: list[str], env: dict[str, str], folder: Path
) -> tuple[dict[str, Any], float]:
    """Run a `trialrun` command; return its JSON output and seconds."""
    started = time.perf_counter()
    completed = subprocess.run(
        [sys.executable, "-m", "trialrun", *arguments, "--json"],
        env=env,
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    return json.loads(completed.stdout.splitlines()[-1]), seconds


def find_store_folder(env: dict[str, str]) -> Path:
    """Return the folder of the scratch store."""
    return Path(env["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent


def load_trial_runs(env: dict[str, str], parent_run_id: str) -> list[Any]:
    """Load the runs of a search's trials."""
    import mlflow

    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    return list(client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent_run_id}'"))


def sum_training_seconds(env: dict[str, str], runs: list[Any]) -> float:
    """Return the total time of all epochs of all trials."""
    import mlflow

    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    histories = [client.get_metric_history(run.info.run_id, "epoch_seconds") for run in runs]
    return sum(metric.value for history in histories for metric in history)


def measure_overhead() -> dict[str, str]:
    """Compare a search with its training time and with separate runs."""
    with scratch_store() as env:
        folder = find_store_folder(env)
        arguments = ["--trials", str(NUM_TRIALS), "--epochs", str(EPOCHS), "--pruner", "none"]
        result, seconds = run_command(["search", *arguments], env, folder)
        runs = load_trial_runs(env, result["run_id"])
        training = sum_training_seconds(env, runs)
        sample = runs[:: -(-len(runs) // NUM_SEPARATE)]  # spread over the search
        separate_seconds = [train_separately(run.data.params, env, folder) for run in sample]
        # Time besides training is about the same for every run, so it is scaled up.
        overhead = sum(separate_seconds) - sum_training_seconds(env, sample)
        separate = training + overhead * len(runs) / len(sample)
        _, two_workers = run_command(
            ["search", *arguments, "--workers", "2", "--study", "two"], env, folder
        )
    return {
        f"search of {NUM_TRIALS} trials, {EPOCHS} epochs each": f"{seconds:.1f} s",
        "of which training": f"{training:.1f} s",
        "not training / training (at most 0.10)": f"{(seconds - training) / training:.3f}",
        f"separate runs, {len(sample)} timed, scaled to {NUM_TRIALS}": f"{separate:.1f} s",
        "search / separate runs (at most 0.55)": f"{seconds / separate:.3f}",
        "search by two workers / separate runs": f"{two_workers / separate:.3f}",
    }


def train_separately(params: dict[str, str], env: dict[str, str], folder: Path) -> float:
    """Train by `mlflow run`, or by `trialrun train` without an MLproject; return seconds."""
    pairs = [(name, params[name]) for name in ("epochs", "batch_size", "learning_rate")]
    if not (ROOT / "MLproject").is_file():
        flags = [text for name, value in pairs for text in (f"--{name.replace('_', '-')}", value)]
        return run_command(["train", *flags], env, folder)[1]
    raw_settings = [text for name, value in pairs for text in ("-P", f"{name}={value}")]
    started = time.perf_counter()
    subprocess.run(
        ["mlflow", "run", str(ROOT), "--env-manager=local", *raw_settings],
        env=env,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def measure_digits() -> dict[str, str]:
    """Run 20 trials on the digits; compare the best one with the registered model."""
    import mlflow

    with scratch_store() as env:
        arguments = ["--trials", str(NUM_DIGITS_TRIALS), "--register-as", "digits"]
        metric = ["--metric", "valid_accuracy"]
        result, seconds = run_command(["search", *arguments, *metric], env, find_store_folder(env))
        client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
        registered = client.get_model_version("digits", "1").tags["weights_sha256"]
        best = client.get_run(result["best_run_id"]).data.tags["weights_sha256"]
    return {
        f"{NUM_DIGITS_TRIALS} trials on the digits": f"{seconds:.0f} s",
        "valid_accuracy of the best (at least 0.99)": f"{result['metrics']['valid_accuracy']:.4f}",
        "the registered weights are the best trial's": str(registered == best).lower(),
    }


def measure_growth() -> dict[str, str]:
    """Compare the time of a trial without training at the start and the end of a long study."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        times = run_dummy_trials(f"sqlite:///{folder}/optuna.db")
    table: dict[str, str] = {}
    for kind, column in zip(("elapsed", "processor"), zip(*times, strict=True), strict=True):
        first, last = column[:50], column[-50:]
        table |= {
            f"{kind} time of a dummy trial, first 50 of {NUM_DUMMY}": f"{median(first):.4f} s",
            f"{kind} time of a dummy trial, last 50 of {NUM_DUMMY}": f"{median(last):.4f} s",
            f"{kind}, last 50 / first 50 (at most 1.20)": f"{sum(last) / sum(first):.3f}",
        }
    return table


def run_dummy_trials(storage_url: str) -> list[tuple[float, float]]:
    """Run trials that open a run and report five epochs; return elapsed and processor seconds.

    The pruner is called, but its answer is ignored, so early and late trials do the same work.
    """
    from trialrun.mlflow_client import connect_client
    from trialrun.tuning.plan import plan_search
    from trialrun.tuning.study.storage import open_storage
    from trialrun.tuning.study.study import open_study, open_trial_queue
    from trialrun.tuning.workers.pool import run_trials

    plan = plan_search({"trials": NUM_DUMMY})
    client = connect_client()
    storage = open_storage(storage_url, heartbeat_seconds=30)
    study = open_study(storage, "dummy", plan)
    queue = open_trial_queue(storage, study, plan, deadline=None, on_stale=lambda _trial: None)
    parent = client.create_run("0").info.run_id
    times: list[tuple[float, float]] = []
    started = time.perf_counter(), time.process_time()

    def record_time() -> None:
        nonlocal started
        now = time.perf_counter(), time.process_time()
        times.append((now[0] - started[0], now[1] - started[1]))
        started = now

    run_trials(queue, DummyTrialRunner(client, parent), "benchmark", record_time)  # type: ignore[arg-type]
    return times


class DummyTrialRunner:
    """A trial runner without training: it opens a nested run and reports five epochs."""

    def __init__(self, client: Any, parent_run_id: str) -> None:
        self._client, self._parent_run_id = client, parent_run_id

    def run(self, queue: Any, claim: Any) -> None:
        """Run one trial."""
        from trialrun.tracking import open_nested_run

        loss = abs(claim.settings["learning_rate"] - 0.01) + 1 / claim.settings["batch_size"]
        with (
            queue.heartbeat(claim),
            open_nested_run(
                self._client,
                parent_run_id=self._parent_run_id,
                experiment_id="0",
                name=None,
                tags={},
            ) as run,
        ):
            run.log_params({name: str(value) for name, value in claim.settings.items()})
            for epoch in range(1, 6):
                value = loss * (1 + 1 / epoch)
                run.log_metrics({"valid_loss": value}, epoch)
                queue.report(claim, value, epoch)
            queue.complete(claim, [loss])


def measure_workers() -> dict[str, str]:
    """Compare the trials per hour of two worker processes and of one."""
    rates = {}
    with scratch_store() as env:
        for num_workers in (1, 2):
            arguments = ["--trials", str(WORKER_TRIALS), "--epochs", "2", "--pruner", "none"]
            arguments += ["--sampler", "random", "--batch-size", "16"]
            arguments += ["--learning-rate", "1e-4:1e-1", "--workers", str(num_workers)]
            _, seconds = run_command(["search", *arguments], env, find_store_folder(env))
            rates[num_workers] = WORKER_TRIALS * 3600 / seconds
    trials = f"{WORKER_TRIALS} trials of 2 epochs, start included"
    return {
        f"one worker, {trials}": f"{rates[1]:.0f} trials/h",
        f"two workers, {trials}": f"{rates[2]:.0f} trials/h",
        "two workers / one worker (at least 1.0)": f"{rates[2] / rates[1]:.3f}",
    }


PARTS = {
    "overhead": measure_overhead,
    "digits": measure_digits,
    "growth": measure_growth,
    "workers": measure_workers,
}

if __name__ == "__main__":
    main(sys.argv[1:])
