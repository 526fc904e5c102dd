"""Trials that the queue gives to another worker while this one still trains them."""

import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import SMALL, write_classes, write_weights
from tests.tuning.conftest import claim_next, make_queue, nested_runs
from trialrun.checkpoint.run_folder import RunFolder, list_run_folders
from trialrun.mlflow_client import connect_client
from trialrun.runs.callbacks import NoOpCallback
from trialrun.tuning.reporting.parent_run import end_lost_run
from trialrun.tuning.study.claims import ClaimedTrial
from trialrun.tuning.study.trial_queue import TrialQueue
from trialrun.tuning.workers.trial_runner import TrialRunner


def run_trial(store: str, queue: TrialQueue, claim: ClaimedTrial) -> Any:
    """Train a trial below a new parent run; return the trial's run."""
    client = connect_client()
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    parent_run_id = client.create_run(experiment.experiment_id).info.run_id
    queue.on_stale = partial(end_lost_run, client)
    runner = TrialRunner(queue.plan, parent_run_id, experiment.experiment_id, NoOpCallback())
    runner.run(queue, claim)
    (run,) = nested_runs(store, parent_run_id)
    return run


def find_folders(store: str) -> list[RunFolder]:
    """Return what the trials left on the disk."""
    return list_run_folders(Path(store.removeprefix("sqlite:///")).parent / "trialrun-runs")


def wait_for_metric(client: mlflow.MlflowClient) -> None:
    """Wait until a run has logged its first epoch."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    for _ in range(600):
        runs = client.search_runs([experiment.experiment_id])
        if any("valid_loss" in run.data.metrics for run in runs):
            return
        time.sleep(0.05)
    raise AssertionError("no epoch ended")


def test_trial_that_was_lost_before_its_run_ends_as_killed(store: str, colors: Path) -> None:
    """A worker that was suspended between its claim and its run finds its trial given away."""
    queue = make_queue(store, colors)
    claim = claim_next(queue)
    queue.requeue_worker("tester")
    run = run_trial(store, queue, claim)
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "killed")
    assert find_folders(store) == []
    assert run.data.tags["error"] == "the worker sent no heartbeats, and its trial was retried"


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["valid_loss", "valid_loss,train_loss"])
def test_trial_that_was_lost_while_training_ends_as_killed(
    metric: str, store: str, colors: Path
) -> None:
    """With one metric the worker notices it after an epoch, with several at the end."""
    values = {"metric": metric, "pruner": "none", "epochs": 12, "patience": 12}
    queue = make_queue(store, colors, **values)
    claim = claim_next(queue)

    other = make_queue(store, colors, **values)  # Optuna's warnings are silenced in one thread only

    def lose() -> None:
        wait_for_metric(mlflow.MlflowClient(store))
        other.requeue_worker("tester")

    thread = threading.Thread(target=lose)
    thread.start()
    run = run_trial(store, queue, claim)
    thread.join()
    assert find_folders(store) == []
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "killed")


def test_workers_that_need_weights_at_once_follow_one_decision(
    store: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second worker waits for the first, which cannot download them, though it has the file."""
    photos = write_classes(tmp_path / "photos", {"cat": 4, "dog": 4}, size=100)
    queue = make_queue(store, photos, batch_size=2)
    has_started, may_fail = threading.Event(), threading.Event()

    def fail_late(*_args: object, **_kwargs: object) -> None:
        has_started.set()
        may_fail.wait(20)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", fail_late)
    runners = [TrialRunner(queue.plan, "", "", NoOpCallback()) for _ in range(2)]
    workers = [
        threading.Thread(target=runner.check_same_data, args=(queue.study, queue.storage))
        for runner in runners
    ]
    workers[0].start()
    assert has_started.wait(20)
    write_weights(hub, SMALL)
    workers[1].start()
    workers[1].join(1)
    may_fail.set()
    for worker in workers:
        worker.join(20)
    data = [runner.load_data(queue.plan.base) for runner in runners]
    assert [prepared.weights.name for prepared in data] == ["random", "random"]
