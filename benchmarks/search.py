"""Cost of a search in addition to its training: `python -m benchmarks.search [PART ...]`.

Parts: `overhead` (16 trials of 3 epochs on the digits, compared with the training time and with
separate runs), `digits` (the best of 20 trials, and whether the registered model is that trial's),
`growth` (500 trials of dummy training, first fifty against last fifty), `workers` (two worker
processes against one), `frozen` (16 trials of the last layer on 480 photos, whose features are
computed once, against one trial). Targets are ratios of figures from the same run of this program.
"""

import json
import os
import platform
import resource
import shutil
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

from benchmarks.fetched import fetch_mobilenet_weights
from benchmarks.photos import write_photos

NUM_TRIALS = 16
EPOCHS = 3
NUM_SEPARATE = 4  # trials that are trained again in separate runs; the time is scaled up
NUM_DIGITS_TRIALS = 20
NUM_DUMMY = 500
WORKER_TRIALS = 8
NUM_PHOTOS = 480
NUM_FROZEN_PAIRS = 3

ROOT = Path(__file__).resolve().parents[1]


def main(parts: list[str]) -> None:
    """Run the parts and print their table."""
    names = parts or list(PARTS)
    print(f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    load = os.getloadavg()[0]
    print(f"machine   {platform.machine()}, {os.cpu_count()} processors, load {load:.1f}")
    packages = ("trialrun", "optuna", "mlflow", "torch")
    print("versions  " + ", ".join(f"{name} {version(name)}" for name in packages), flush=True)
    for part in names:
        for name, value in PARTS[part]().items():
            print(f"{name:<58} {value}", flush=True)


@contextmanager
def scratch_store() -> Iterator[dict[str, str]]:
    """Create a temporary tracking store; yield an environment that uses it."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        env.pop("MLFLOW_RUN_ID", None)
        # A short run creates the store, writes the sample and caches its images.
        run_command(["train", "--epochs", "1", "--model", "shufflenet_v2_x0_5"], env, Path(folder))
        yield env


def run_command(
    arguments: list[str], env: dict[str, str], folder: Path
) -> tuple[dict[str, Any], float]:
    """Run a `trialrun` command; return its JSON and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "trialrun", *arguments, "--json"],
        env=env,
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]), seconds


def find_store_folder(env: dict[str, str]) -> Path:
    """Return the folder of the temporary store."""
    return Path(env["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent


def list_trial_runs(env: dict[str, str], parent_run_id: str) -> list[Any]:
    """Return the nested runs of a search."""
    import mlflow

    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    return list(client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent_run_id}'"))


def sum_epoch_seconds(env: dict[str, str], runs: list[Any]) -> float:
    """Return the duration of all epochs of all runs."""
    import mlflow

    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    histories = [client.get_metric_history(run.info.run_id, "epoch_seconds") for run in runs]
    return sum(metric.value for history in histories for metric in history)


def overhead() -> dict[str, str]:
    """Measure a search's time beside training, and searches against separate runs."""
    with scratch_store() as env:
        folder = find_store_folder(env)
        arguments = ["--trials", str(NUM_TRIALS), "--epochs", str(EPOCHS), "--pruner", "none"]
        result, by_one = run_command(["search", *arguments, "--workers", "1"], env, folder)
        runs = list_trial_runs(env, result["run_id"])
        training = sum_epoch_seconds(env, runs)
        timed = runs[:: -(-len(runs) // NUM_SEPARATE)]  # spread over the search
        timed_seconds = [train_separately(run.data.params, env, folder) for run in timed]
        # A run's time beside training is the same for all runs.
        beside = sum(timed_seconds) - sum_epoch_seconds(env, timed)
        separate = training + beside * len(runs) / len(timed)
        _, by_default = run_command(["search", *arguments, "--study", "default"], env, folder)
    return {
        f"search of {NUM_TRIALS} trials, {EPOCHS} epochs each, one worker": f"{by_one:.1f} s",
        "of which training": f"{training:.1f} s",
        "not training / training (at most 0.10)": f"{(by_one - training) / training:.3f}",
        f"separate runs, {len(timed)} timed, scaled to {NUM_TRIALS}": f"{separate:.1f} s",
        "search by one worker / separate runs": f"{by_one / separate:.3f}",
        "the same search with workers=auto": f"{by_default:.1f} s",
        "search with workers=auto / separate runs (at most 0.55)": f"{by_default / separate:.3f}",
    }


def train_separately(params: dict[str, str], env: dict[str, str], folder: Path) -> float:
    """Time a trial's settings in `mlflow run`, or in `trialrun train` without an MLproject."""
    pairs = [(name, params[name]) for name in ("epochs", "batch_size", "learning_rate")]
    if not (ROOT / "MLproject").is_file():
        flags = [text for name, value in pairs for text in (f"--{name.replace('_', '-')}", value)]
        return run_command(["train", *flags], env, folder)[1]
    mlflow_params = [text for name, value in pairs for text in ("-P", f"{name}={value}")]
    start = time.perf_counter()
    subprocess.run(
        ["mlflow", "run", str(ROOT), "--env-manager=local", *mlflow_params],
        env=env,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def digits() -> dict[str, str]:
    """Search the digits with 20 trials and check that the best model is registered."""
    import mlflow

    with scratch_store() as env:
        arguments = ["--trials", str(NUM_DIGITS_TRIALS), "--register-as", "digits"]
        arguments += ["--metric", "valid_accuracy"]
        result, seconds = run_command(["search", *arguments], env, find_store_folder(env))
        client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
        registered = client.get_model_version("digits", "1").tags["weights_sha256"]
        best = client.get_run(result["best_run_id"]).data.tags["weights_sha256"]
    return {
        f"{NUM_DIGITS_TRIALS} trials on the digits": f"{seconds:.0f} s",
        "valid_accuracy of the best (at least 0.99)": f"{result['metrics']['valid_accuracy']:.4f}",
        "the registered weights are the best trial's": str(registered == best).lower(),
    }


def growth() -> dict[str, str]:
    """Measure a trial without training at the start and the end of a long study."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        times = time_dummy_trials(f"sqlite:///{folder}/optuna.db")
    table: dict[str, str] = {}
    for kind, column in zip(("elapsed", "processor"), zip(*times, strict=True), strict=True):
        first, last = column[:50], column[-50:]
        table |= {
            f"{kind} time of a dummy trial, first 50 of {NUM_DUMMY}": f"{median(first):.4f} s",
            f"{kind} time of a dummy trial, last 50 of {NUM_DUMMY}": f"{median(last):.4f} s",
            f"{kind}, last fifty / first fifty (at most 1.20)": f"{sum(last) / sum(first):.3f}",
        }
    return table


def time_dummy_trials(storage_url: str) -> list[tuple[float, float]]:
    """Return the elapsed and processor seconds of trials that open a run and report five epochs.

    The pruner's answer is ignored, so that early and late trials do the same work.
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
    queue = open_trial_queue(
        storage, study, plan, deadline=None, on_stale=lambda _trial, _is_retried: None
    )
    parent_run_id = client.create_run("0").info.run_id
    times: list[tuple[float, float]] = []
    start = time.perf_counter(), time.process_time()

    def record_time() -> None:
        nonlocal start
        now = time.perf_counter(), time.process_time()
        times.append((now[0] - start[0], now[1] - start[1]))
        start = now

    runner: Any = DummyRunner(client, parent_run_id)
    run_trials(queue, runner, "benchmark", record_time)
    return times


class DummyRunner:
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


def workers() -> dict[str, str]:
    """Compare trials per hour of two worker processes and of one process."""
    rates = {}
    with scratch_store() as env:
        for num_workers in (1, 2):
            arguments = ["--trials", str(WORKER_TRIALS), "--epochs", "2", "--pruner", "none"]
            arguments += ["--sampler", "random", "--batch-size", "16"]
            arguments += ["--learning-rate", "1e-4:1e-1", "--workers", str(num_workers)]
            _, seconds = run_command(["search", *arguments], env, find_store_folder(env))
            rates[num_workers] = WORKER_TRIALS * 3600 / seconds
    label = f"{WORKER_TRIALS} trials of 2 epochs, start included"
    return {
        f"one worker, {label}": f"{rates[1]:.0f} trials/h",
        f"two workers, {label}": f"{rates[2]:.0f} trials/h",
        "two workers / one worker (at least 1.0)": f"{rates[2] / rates[1]:.3f}",
    }


def frozen() -> dict[str, str]:
    """Compare searches of one and of 16 trials of MobileNetV2's last layer, in alternation.

    Features are computed by each command that is timed; the images are decoded before. The
    processor seconds vary less than the elapsed ones where other processes use the cores.
    """
    seconds: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    with scratch_store() as env:
        folder = find_store_folder(env)
        env["TRIALRUN_CACHE"] = str(folder / "cache")
        photos = write_photos(folder / "photos", NUM_PHOTOS, seed=1)
        settings = ["--train-data", str(photos), "--model", "mobilenet_v2"]
        settings += ["--weights", str(fetch_mobilenet_weights()), "--freeze", "backbone"]
        commands = {
            "train": ["train", *settings],
            "1": ["search", *settings, "--trials", "1"],
            "16": ["search", *settings, "--trials", str(NUM_TRIALS), "--pruner", "none"],
        }
        run_command(commands["train"], env, folder)
        for _ in range(NUM_FROZEN_PAIRS):
            for name, arguments in commands.items():
                shutil.rmtree(folder / "cache" / "features")
                before = read_processor_seconds()
                seconds.setdefault(name, []).append(run_command(arguments, env, folder)[1])
                processor.setdefault(name, []).append(read_processor_seconds() - before)
        again = run_command(commands["train"], env, folder)[1]
    label = f"{NUM_TRIALS} trials / one trial"
    return {
        f"train --freeze backbone, {NUM_PHOTOS} photos": f"{median(seconds['train']):.1f} s",
        "the same with stored features": f"{again:.1f} s",
        "search of one trial": f"{median(seconds['1']):.1f} s",
        f"search of {NUM_TRIALS} trials": f"{median(seconds['16']):.1f} s",
        f"{label} (at most 1.5)": f"{sum(seconds['16']) / sum(seconds['1']):.3f}",
        f"{label}, processor seconds": f"{sum(processor['16']) / sum(processor['1']):.3f}",
    }


def read_processor_seconds() -> float:
    """Return the processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


PARTS = {
    "overhead": overhead,
    "digits": digits,
    "growth": growth,
    "workers": workers,
    "frozen": frozen,
}

if __name__ == "__main__":
    main(sys.argv[1:])
