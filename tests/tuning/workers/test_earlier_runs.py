"""Retried trials go on in the run of the interrupted try, from its newest checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.tuning.conftest import nested_runs, settings
from trialrun.checkpoint.run_folder import RunFolder, list_run_folders

EACH_STEP = 1e-6  # minutes


def find_root(store: str) -> Path:
    """Return the parent of the run folders, beside the store."""
    return Path(store.removeprefix("sqlite:///")).parent / "trialrun-runs"


def list_checkpoints(folder: RunFolder) -> list[int]:
    """Return the numbers of a run's checkpoints; 0 comes first."""
    return [0, *sorted(int(path.name) for path in folder.checkpoints.glob("[0-9]*"))]


def interrupt_search(
    values: dict[str, Any], is_time: Callable[[], bool], number: signal.Signals
) -> None:
    """Start a search; send it and its workers a signal at the right moment, and wait for it."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "trialrun", "search", *flags], start_new_session=True
    )
    try:
        deadline = time.monotonic() + 90
        while not is_time():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, number)
        process.wait(60)


def read_outcomes(store: str, parent_run_id: str) -> list[tuple[Any, ...]]:
    """Return what must not depend on interruptions, for each trial in the order of its start."""
    client = mlflow.MlflowClient(store)
    outcomes = []
    for run in nested_runs(store, parent_run_id):
        history = client.get_metric_history(run.info.run_id, "valid_loss")
        losses = [(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)]
        names = ("stop_reason", "stopped_epoch", "weights_sha256")
        tags = [run.data.tags.get(name) for name in names]
        outcomes.append((run.info.status, run.data.params["random_seed"], *tags, losses))
    return outcomes


@pytest.mark.slow
def test_search_that_was_killed_equals_an_undisturbed_one(store: str, colors: Path) -> None:
    """Weights, losses and pruned trials are the same; each epoch is trained and logged once."""
    values = settings(colors, epochs=2, trials=3, batch_size=4, pruner="hyperband")
    values["learning_rate"] = "1e-4:1e-2"
    whole = trialrun.search(**values, study="whole")
    values |= {"study": "cut", "checkpoint_minutes": EACH_STEP}

    def is_in_second_epoch() -> bool:
        return any(list_checkpoints(f)[-1] >= 11 for f in list_run_folders(find_root(store)))

    interrupt_search(values, is_in_second_epoch, signal.SIGKILL)
    cut = trialrun.search(**values)
    expected, found = read_outcomes(store, whole.run_id), read_outcomes(store, cut.run_id)
    assert found == expected
    assert "pruned" in json.dumps(found)
    assert cut.weights_sha256 == whole.weights_sha256
    assert cut.num_trials["lost"] == 1
    run = nested_runs(store, cut.run_id)[0]
    assert (run.data.tags["trial"], run.data.tags["retry_of"]) == ("1", "0")
    assert list_run_folders(find_root(store)) == []
