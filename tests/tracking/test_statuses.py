"""Tests of the status of a run after signals and errors."""

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.store.tracking import sqlalchemy_store

import trialrun
from tests.processes import run_program
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.early_stopping import EpochStatus
from trialrun.errors import RunInterruptedError, TrackingError
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.signals import interrupt_on_signals
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run
from trialrun.tracking import open_nested_run, open_run

NETWORK = "shufflenet_v2_x0_5"
TINY: dict[str, Any] = {"model": NETWORK, "batch_size": 8, "epochs": 1, "precision": "fp32"}


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Restore the signal handlers of the test process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class InterruptedClient(mlflow.MlflowClient):
    """A client that sends SIGTERM once, after the first call of the method `during`."""

    def __init__(self, uri: str, during: str) -> None:
        super().__init__(uri)
        self._during = during

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name.startswith("_") or name != self._during:
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            self._during = ""
            answer = attribute(*arguments, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            return answer

        return call


def runs(store: str) -> list[Run]:
    """Return the runs of the experiment `tests`, newest first."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    found: list[Run] = client.search_runs([experiment.experiment_id])
    return found


def refuse(store: str, table: str) -> None:
    """Let the database refuse new rows of a table, as if another process had just added them."""
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database, database:
        database.execute(
            f"CREATE TRIGGER refusal BEFORE INSERT ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed'); END"
        )


def lose_artifacts(store: str) -> None:
    """Replace the artifact folder by a file, so that storing artifacts fails."""
    folder = Path(store.removeprefix("sqlite:///")).with_name("artifacts")
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize(
    "during", ["create_run", "get_run", "log_batch", "get_experiment", "set_terminated"]
)
def test_signal_at_any_call_ends_the_run_as_killed(store: str, during: str) -> None:
    """A signal during any call from opening to ending the run leaves it KILLED."""
    client = InterruptedClient(store, during)
    with (
        pytest.raises(RunInterruptedError),
        interrupt_on_signals(),
        open_run(client, experiment=None, name=None, tags={"a": "b"}),
    ):
        pass
    assert [run.info.status for run in runs(store)] == ["KILLED"]


@pytest.mark.parametrize("during", ["create_run", "get_run", "set_terminated"])
def test_signal_ends_a_nested_run_as_killed(store: str, during: str) -> None:
    """A signal leaves a nested run KILLED."""
    client = InterruptedClient(store, during)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    with (
        pytest.raises(RunInterruptedError),
        interrupt_on_signals(),
        open_nested_run(
            client,
            parent_run_id="0" * 32,
            experiment_id=experiment.experiment_id,
            name=None,
            tags={},
        ),
    ):
        pass
    assert [run.info.status for run in runs(store)] == ["KILLED"]


def test_signal_while_a_failed_run_ends_is_deferred(store: str) -> None:
    """The run becomes FAILED before the signal is raised."""
    client = InterruptedClient(store, "set_tag")
    with (
        pytest.raises(RunInterruptedError),
        interrupt_on_signals(),
        open_run(client, experiment=None, name=None, tags={}),
    ):
        raise ValueError("what went wrong")
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "ValueError: what went wrong")


def test_long_tags_are_cut(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would refuse them after training, or cut them without a sign."""
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    client = mlflow.MlflowClient(store)
    with (
        pytest.raises(ValueError, match="long"),
        open_run(client, experiment=None, name=None, tags={"tag": "é" * 8001}),
    ):
        raise ValueError("long" * 3000)
    (run,) = runs(store)
    assert run.data.tags["tag"] == "é" * 7999 + "…"
    assert (len(run.data.tags["error"]), run.data.tags["error"][-1]) == (8000, "…")


def test_error_while_a_run_is_opened_fails_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is FAILED if it was opened again but its tags could not be set."""
    without_waits = SimpleNamespace(sleep=lambda _seconds: None)
    monkeypatch.setattr(sqlalchemy_store, "time", without_waits)  # 13 s between MLflow's attempts
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    known = client.create_run(experiment.experiment_id).info.run_id
    refuse(store, "tags")
    with (
        pytest.raises(TrackingError, match="tags"),
        open_run(client, experiment=None, name=None, tags={"a": "b"}, run_id=known),
    ):
        pass
    assert [run.info.status for run in runs(store)] == ["FAILED"]


def test_errors_of_experiment_tags_are_ignored(store: str) -> None:
    """A run does not fail if another process sets the same experiment tags at the same time."""
    refuse(store, "experiment_tags")
    with open_run(mlflow.MlflowClient(store), experiment=None, name=None, tags={}):
        pass
    assert [run.info.status for run in runs(store)] == ["FINISHED"]


class AfterFirstEpoch(NoOpCallback):
    """Calls a function after the first epoch."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Call the function."""
        if status.result.epoch == 1:
            self._act()


def test_signal_without_artifact_store_ends_the_run_as_killed(store: str, colors: Path) -> None:
    """The run is KILLED even if artifacts can no longer be stored."""

    def interrupt() -> None:
        lose_artifacts(store)
        os.kill(os.getpid(), signal.SIGTERM)

    plan = plan_training({"train_data": str(colors), **TINY, "epochs": 3})
    with pytest.raises(RunInterruptedError), interrupt_on_signals():
        train_run(plan, AfterFirstEpoch(interrupt))
    assert [run.info.status for run in runs(store)] == ["KILLED"]


def test_first_error_is_raised_without_artifact_store(store: str, colors: Path) -> None:
    """A non-finite loss is raised, not the later error of the artifact store."""
    data = {"train_data": str(colors), "valid_data": str(colors)}
    settings = {**TINY, "batch_size": 36, "learning_rate": 1e38}
    with pytest.raises(NonFiniteLossError):
        train_run(
            plan_training({**data, **settings}),
            AfterFirstEpoch(lambda: lose_artifacts(store)),
        )


@pytest.mark.slow
def test_project_run_is_used_once(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training in a child process of `mlflow run` opens a new run."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    project_run_id = client.create_run(experiment.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", project_run_id)
    results = [
        trialrun.train(train_data=str(colors), learning_rate=rate, **TINY) for rate in (0.01, 0.02)
    ]
    assert results[0].run_id == project_run_id != results[1].run_id
    assert client.get_run(results[1].run_id).data.params["learning_rate"] == "0.02"


_LIBRARY = """
import os, signal, sys, threading, time
import mlflow, torch, trialrun

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it

def send_after_first_epoch():
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tests").experiment_id
    while not any(client.get_metric_history(run.info.run_id, "train_loss")
                  for run in client.search_runs([experiment])):
        time.sleep(0.1)
    os.kill(os.getpid(), int(sys.argv[2]))

threading.Thread(target=send_after_first_epoch, daemon=True).start()
try:
    trialrun.train(train_data=sys.argv[1], model="shufflenet_v2_x0_5", batch_size=8,
                   epochs=100000, patience=100000, precision="fp32")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "output"), [(2, 0, "interrupted"), (15, -15, "")])
def test_signal_in_a_library_call(
    store: str, colors: Path, number: int, code: int, output: str
) -> None:
    """The run is KILLED with a reason; then the signal has its usual effect on the process."""
    command = [sys.executable, "-c", _LIBRARY, str(colors), str(number)]
    done = run_program(command, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (code, output), done.stderr
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "killed")
