"""What a search costs beside its training: `python -m benchmarks.search [PART ...]`.

Parts: `overhead` (16 trials of 3 epochs on the digits, against training time and against as many
separate runs), `digits` (what 20 trials find, and whether it is what is registered), `growth` (500
trials of dummy training, first fifty against last fifty), `workers` (two worker processes against
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
NUM_SEPARATE = 6  # of the trials are trained again in runs of their own; the rest is scaled
NUM_DIGITS_TRIALS = 20
NUM_DUMMY = 500
WORKER_TRIALS = 8

ROOT = Path(__file__).resolve().parents[1]


def main(parts: list[str]) -> None:
    """Print the table."""
    chosen = parts or list(PARTS)
    print(f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    load = os.getloadavg()[0]
    print(f"machine   {platform.machine()}, {os.cpu_count()} processors, load {load:.1f}")
    names = ("trialrun", "optuna", "mlflow", "torch")
    print("versions  " + ", ".join(f"{name} {version(name)}" for name in names), flush=True)
    for part in chosen:
        for name, value in PARTS[part]().items():
            print(f"{name:<58} {value}", flush=True)


@contextmanager
def scratch_store() -> Iterator[dict[str, str]]:
    """An environment with a tracking store of its own, made ready beforehand."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        env = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        env.pop("MLFLOW_RUN_ID", None)
        # One short run first: it makes the store, writes the sample and packs its images.
        call(["train", "--epochs", "1", "--model", "shufflenet_v2_x0_5"], env, Path(folder))
        yield env


def call(arguments: list[str], env: dict[str, str], folder: Path) -> tuple[dict[str, Any], float]:
    """A `trialrun` command's JSON and seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "trialrun", *arguments, "--json"],
        env=env,
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    return json.loads(done.stdout.splitlines()[-1]), seconds


def store_folder(env: dict[str, str]) -> Path:
    """Where the scratch store lies."""
    return Path(env["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent


def trials_of(env: dict[str, str], parent_run_id: str) -> list[Any]:
    """The runs of a search's trials."""
    import mlflow

    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    return list(client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent_run_id}'"))


def training_seconds(env: dict[str, str], runs: list[Any]) -> float:
    """The sum of all epochs of all trials."""
    import mlflow

    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    histories = [client.get_metric_history(run.info.run_id, "epoch_seconds") for run in runs]
    return sum(metric.value for history in histories for metric in history)


def overhead() -> dict[str, str]:
    """What is not training, against training, and against separate runs."""
    with scratch_store() as env:
        folder = store_folder(env)
        asked = ["--trials", str(NUM_TRIALS), "--epochs", str(EPOCHS), "--pruner", "none"]
        result, seconds = call(["search", *asked], env, folder)
        runs = trials_of(env, result["run_id"])
        training = training_seconds(env, runs)
        timed = runs[:: -(-len(runs) // NUM_SEPARATE)]  # spread over the search
        again = [separate_run(run.data.params, env, folder) for run in timed]
        # A run's own cost is what its training did not take; it is the same for every run.
        beside = sum(again) - training_seconds(env, timed)
        separate = training + beside * len(runs) / len(timed)
        _, by_two = call(["search", *asked, "--workers", "2", "--study", "two"], env, folder)
    return {
        f"search of {NUM_TRIALS} trials, {EPOCHS} epochs each": f"{seconds:.1f} s",
        "of which training": f"{training:.1f} s",
        "not training / training (at most 0.10)": f"{(seconds - training) / training:.3f}",
        f"separate runs, {len(timed)} timed, scaled to {NUM_TRIALS}": f"{separate:.1f} s",
        "search / separate runs (at most 0.55)": f"{seconds / separate:.3f}",
        "search by two workers / separate runs": f"{by_two / separate:.3f}",
    }


def separate_run(params: dict[str, str], env: dict[str, str], folder: Path) -> float:
    """Seconds of a trial by `mlflow run`; by `trialrun train`, where there is no MLproject."""
    pairs = [(name, params[name]) for name in ("epochs", "batch_size", "learning_rate")]
    if not (ROOT / "MLproject").is_file():
        flags = [text for name, value in pairs for text in (f"--{name.replace('_', '-')}", value)]
        return call(["train", *flags], env, folder)[1]
    raw_settings = [text for name, value in pairs for text in ("-P", f"{name}={value}")]
    began = time.perf_counter()
    subprocess.run(
        ["mlflow", "run", str(ROOT), "--env-manager=local", *raw_settings],
        env=env,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def digits() -> dict[str, str]:
    """What 20 trials find on the digits, and whether it is what is registered."""
    import mlflow

    with scratch_store() as env:
        asked = ["--trials", str(NUM_DIGITS_TRIALS), "--register-as", "digits"]
        metric = ["--metric", "valid_accuracy"]
        result, seconds = call(["search", *asked, *metric], env, store_folder(env))
        client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
        registered = client.get_model_version("digits", "1").tags["weights_sha256"]
        best = client.get_run(result["best_run_id"]).data.tags["weights_sha256"]
    return {
        f"{NUM_DIGITS_TRIALS} trials on the digits": f"{seconds:.0f} s",
        "valid_accuracy of the best (at least 0.99)": f"{result['metrics']['valid_accuracy']:.4f}",
        "the registered weights are the best trial's": str(registered == best).lower(),
    }


def growth() -> dict[str, str]:
    """The cost of a trial without training, at the start and the end of a long study."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        times = dummy_trials(f"sqlite:///{folder}/optuna.db")
    table: dict[str, str] = {}
    for kind, column in zip(("elapsed", "processor"), zip(*times, strict=True), strict=True):
        first, last = column[:50], column[-50:]
        table |= {
            f"{kind} time of a dummy trial, first 50 of {NUM_DUMMY}": f"{median(first):.4f} s",
            f"{kind} time of a dummy trial, last 50 of {NUM_DUMMY}": f"{median(last):.4f} s",
            f"{kind}, last fifty / first fifty (at most 1.20)": f"{sum(last) / sum(first):.3f}",
        }
    return table


def dummy_trials(storage_url: str) -> list[tuple[float, float]]:
    """Elapsed and processor seconds of each of many trials that open a run and report five epochs.

    The pruner is asked and not obeyed, so that early and late trials do the same.
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
    began = time.perf_counter(), time.process_time()

    def after() -> None:
        nonlocal began
        now = time.perf_counter(), time.process_time()
        times.append((now[0] - began[0], now[1] - began[1]))
        began = now

    run_trials(queue, DummyBench(client, parent), "benchmark", after)  # type: ignore[arg-type]
    return times


class DummyBench:
    """Trains nothing: opens a nested run, reports five epochs, ends."""

    def __init__(self, client: Any, parent_run_id: str) -> None:
        self._client, self._parent_run_id = client, parent_run_id

    def run(self, queue: Any, claim: Any) -> None:
        """One trial."""
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
    """Trials an hour of two worker processes against one process."""
    rates = {}
    with scratch_store() as env:
        for num_workers in (1, 2):
            asked = ["--trials", str(WORKER_TRIALS), "--epochs", "2", "--pruner", "none"]
            more = ["--sampler", "random", "--batch-size", "16", "--learning-rate", "1e-4:1e-1"]
            _, seconds = call(
                ["search", *asked, *more, "--workers", str(num_workers)], env, store_folder(env)
            )
            rates[num_workers] = WORKER_TRIALS * 3600 / seconds
    told = f"{WORKER_TRIALS} trials of 2 epochs, start included"
    return {
        f"one worker, {told}": f"{rates[1]:.0f} trials/h",
        f"two workers, {told}": f"{rates[2]:.0f} trials/h",
        "two workers / one worker (at least 1.0)": f"{rates[2] / rates[1]:.3f}",
    }


PARTS = {"overhead": overhead, "digits": digits, "growth": growth, "workers": workers}

if __name__ == "__main__":
    main(sys.argv[1:])
