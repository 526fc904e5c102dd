"""Retried trials go on in the run of the interrupted try, from its newest checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.processes import ForkedProgram
from tests.tuning.conftest import claim_next, make_queue, nested_runs, settings
from trialrun.checkpoint.run_folder import RunFolder, list_run_folders
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.mlflow_client import connect_client
from trialrun.runs.callbacks import NoOpCallback
from trialrun.tuning.reporting.parent_run import end_lost_run
from trialrun.tuning.study import attrs
from trialrun.tuning.study.claims import ClaimedTrial
from trialrun.tuning.study.trial_queue import TrialQueue
from trialrun.tuning.workers.trial_runner import TrialRunner

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
    process = ForkedProgram([sys.executable, "-m", "trialrun", "search", *flags])
    try:
        deadline = time.monotonic() + 90
        while not is_time():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, number)
        process.wait(60)


class StoppedQueue(TrialQueue):
    """Stops the worker after the second epoch of a trial, as a signal would."""

    def report(self, claim: ClaimedTrial, value: float, epoch: int) -> bool:
        """Report the epoch, then stop."""
        is_hopeless = super().report(claim, value, epoch)
        if epoch == 2:
            raise RunInterruptedError("SIGTERM")
        return is_hopeless


@dataclass
class Interrupted:
    """A study whose first trial was interrupted after two of three epochs, in run `run_id`."""

    queue: TrialQueue
    runner: TrialRunner
    client: mlflow.MlflowClient
    run_id: str
    folder: RunFolder

    def retry(self) -> Any:
        """Train the retry; return its run."""
        claim = claim_next(self.queue)
        self.runner.run(self.queue, claim)
        assert claim.number == 1
        trial = self.queue.study.trials[1]
        assert trial.state.name == "COMPLETE"
        assert sorted(trial.intermediate_values) == [1, 2, 3]
        return self.client.get_run(trial.user_attrs[attrs.RUN_ID])

    def count_values(self, run_id: str) -> int:
        """Return how many validation losses a run has."""
        return len(self.client.get_metric_history(run_id, "valid_loss"))


@pytest.fixture
def interrupted(store: str, colors: Path) -> Interrupted:
    """A study with a trial that waits for its retry."""
    queue = make_queue(store, colors, epochs=3, trials=1)
    client = connect_client()
    queue.on_stale = partial(end_lost_run, client)
    stopped = StoppedQueue(*(getattr(queue, field.name) for field in fields(queue)))
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    parent = client.create_run(experiment.experiment_id).info.run_id
    runner = TrialRunner(queue.plan, parent, experiment.experiment_id, NoOpCallback())
    with pytest.raises(RunInterruptedError):
        runner.run(stopped, claim_next(stopped))
    run_id = queue.study.trials[0].user_attrs[attrs.RUN_ID]
    assert client.get_run(run_id).info.status == "KILLED"
    (folder,) = list_run_folders(find_root(store))
    return Interrupted(queue, runner, client, run_id, folder)


def test_retry_goes_on_in_the_same_run(interrupted: Interrupted) -> None:
    """Only the third epoch is trained; the tags name both trials, and the folder is deleted."""
    run = interrupted.retry()
    assert (run.info.run_id, run.info.status) == (interrupted.run_id, "FINISHED")
    assert interrupted.count_values(interrupted.run_id) == 3
    events = mlflow.artifacts.load_text(f"runs:/{interrupted.run_id}/events.jsonl").splitlines()
    epochs = [event.get("epoch") for event in map(json.loads, events) if "improve" in str(event)]
    assert epochs == [1, 2, 3]
    assert '"event": "resumed", ' in events[2]
    assert (run.data.tags["trial"], run.data.tags["retry_of"]) == ("1", "0")
    assert run.data.tags["stop_reason"] == "completed"
    assert not interrupted.folder.path.exists()


def hold_lock(interrupted: Interrupted) -> None:
    """Keep the lock of the run, as a suspended worker does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD_LOCK, str(interrupted.folder.path / "run.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    _holders.append(process)


_HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
_holders: list["subprocess.Popen[bytes]"] = []


def damage_checkpoints(interrupted: Interrupted) -> None:
    """Overwrite a byte of each checkpoint."""
    for file in interrupted.folder.checkpoints.glob("*/state.safetensors"):
        with file.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"\x55")


def delete_folder(interrupted: Interrupted) -> None:
    """Delete the folder, as if the trial had run on another machine."""
    interrupted.folder.delete()


def delete_run(interrupted: Interrupted) -> None:
    """Delete the run in MLflow."""
    interrupted.client.delete_run(interrupted.run_id)


@pytest.mark.slow
@pytest.mark.parametrize("lose", [hold_lock, damage_checkpoints, delete_folder, delete_run])
def test_retry_starts_again_in_a_new_run(
    lose: Callable[[Interrupted], None], interrupted: Interrupted
) -> None:
    """If the process still exists, or checkpoints, folder or run do not."""
    lose(interrupted)
    try:
        run = interrupted.retry()
    finally:
        while _holders:
            _holders.pop().communicate()
    assert (run.info.status, run.data.tags["retry_of"]) == ("FINISHED", "0")
    assert run.info.run_id != interrupted.run_id
    assert interrupted.count_values(run.info.run_id) == 3
    assert interrupted.client.get_run(interrupted.run_id).info.status == "KILLED"


def test_result_of_a_finished_run_is_not_trained_again(interrupted: Interrupted) -> None:
    """The worker of the second try was killed after its run and before its report."""
    queue, client = interrupted.queue, interrupted.client
    claim = claim_next(queue)

    class DyingQueue(TrialQueue):
        def complete(self, claim: ClaimedTrial, values: Any) -> bool:
            raise RunInterruptedError("SIGKILL")

        def requeue(self, claim: ClaimedTrial, reason: str) -> None:
            self.requeue_worker("tester")

    dying = DyingQueue(*(getattr(queue, field.name) for field in fields(queue)))
    with pytest.raises(RunInterruptedError):
        interrupted.runner.run(dying, claim)
    assert client.get_run(interrupted.run_id).info.status == "FINISHED"
    interrupted.runner.run(queue, claim_next(queue))
    trials = queue.study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "COMPLETE"]
    run = client.get_run(interrupted.run_id)
    assert trials[2].values == [min(m.value for m in _read_losses(client, interrupted.run_id))]
    assert trials[2].user_attrs[attrs.RESULT]["weights_sha256"] == run.data.tags["weights_sha256"]
    assert trials[2].user_attrs[attrs.MODEL_URI].startswith("models:/m-")
    assert (run.info.status, run.data.tags["trial"]) == ("FINISHED", "2")
    assert interrupted.count_values(interrupted.run_id) == 3
    assert not interrupted.folder.path.exists()


def _read_losses(client: mlflow.MlflowClient, run_id: str) -> list[Any]:
    return list(client.get_metric_history(run_id, "valid_loss"))


def test_run_that_was_taken_over_is_not_ended(interrupted: Interrupted) -> None:
    """The first worker, which was suspended, learns only afterwards that it has lost the trial."""
    queue, client = interrupted.queue, interrupted.client
    claim = claim_next(queue)
    assert queue.take_over_run(claim, lambda _run_id: True) == interrupted.run_id
    client.update_run(interrupted.run_id, status="RUNNING")
    first = ClaimedTrial(queue.study.trials[0], 1, {}, 0, [])  # type: ignore[arg-type]
    assert not queue.end_run_of_lost(first)
    assert client.get_run(interrupted.run_id).info.status == "RUNNING"
    assert queue.end_run_of_lost(claim)
    assert client.get_run(interrupted.run_id).info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["1e30", "1e-3"])
def test_ended_trials_leave_no_folder(store: str, colors: Path, rate: str) -> None:
    """Whether they complete or fail with a loss that is not finite."""
    values = settings(colors, trials=1, epochs=3, timeout=20, learning_rate=f"{rate},{rate}1")
    values["sampler"] = "random"
    if rate == "1e30":
        with pytest.raises(TrialrunError, match="NonFiniteLossError"):
            trialrun.search(**values)
    else:
        trialrun.search(**values)
    assert list_run_folders(find_root(store)) == []


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
    values["learning_rate"] = (
        "1e-6:1e-5"  # with higher ones, a loss may be NaN, which is not equal to itself
    )
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
