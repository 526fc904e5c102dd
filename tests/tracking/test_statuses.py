"""Whatever comes between, a run ends with a status that is true."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run

import trialrun
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
    """The tests' process goes on after a signal, with the handlers it had."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


class Interrupted(mlflow.MlflowClient):
    """A client in whose calls of one kind SIGTERM arrives, once: after the store has done it."""

    def __init__(self, uri: str, during: str) -> None:
        super().__init__(uri)
        self._during = during

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name != self._during:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._during = ""
            answer = found(*arguments, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            return answer

        return call


def runs(store: str) -> list[Run]:
    """The runs of the tests' experiment, newest first."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    found: list[Run] = client.search_runs([experiment.experiment_id])
    return found


def refuse(store: str, table: str) -> None:
    """Have the database refuse new rows of a table, as it does those that another has just made."""
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database, database:
        database.execute(
            f"CREATE TRIGGER refusal BEFORE INSERT ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed'); END"
        )


def lose_artifacts(store: str) -> None:
    """Let the artifacts' folder take no more files."""
    folder = Path(store.removeprefix("sqlite:///")).with_name("artifacts")
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize(
    "during", ["create_run", "get_run", "log_batch", "get_experiment", "set_terminated"]
)
def test_a_signal_at_any_call_ends_the_run_as_killed(store: str, during: str) -> None:
    """From the call that opens the run to the one that ends it."""
    client = Interrupted(store, during)
    with (
        pytest.raises(RunInterruptedError),
        interrupt_on_signals(),
        open_run(client, experiment=None, name=None, tags={"a": "b"}),
    ):
        pass
    assert [run.info.status for run in runs(store)] == ["KILLED"]


@pytest.mark.parametrize("during", ["create_run", "get_run", "set_terminated"])
def test_a_signal_ends_a_nested_run_as_killed(store: str, during: str) -> None:
    """A trial's run is ended like any other."""
    client = Interrupted(store, during)
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


def test_a_signal_while_a_failed_run_is_ended_waits(store: str) -> None:
    """The run is FAILED, as it was about to be, and the signal is heeded then."""
    client = Interrupted(store, "set_tag")
    with (
        pytest.raises(RunInterruptedError),
        interrupt_on_signals(),
        open_run(client, experiment=None, name=None, tags={}),
    ):
        raise ValueError("what went wrong")
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "ValueError: what went wrong")


def test_an_error_while_a_run_is_opened_fails_it(store: str) -> None:
    """A store that opens the run again but takes no tags leaves no run RUNNING."""
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


def test_first_runs_at_once_do_not_fail_over_the_experiments_page(store: str) -> None:
    """Another process sets the same experiment tags at the same moment: no run ends for that."""
    refuse(store, "experiment_tags")
    with open_run(mlflow.MlflowClient(store), experiment=None, name=None, tags={}):
        pass
    assert [run.info.status for run in runs(store)] == ["FINISHED"]


class AfterFirstEpoch(NoOpCallback):
    """Does something after the first epoch."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Do it."""
        if status.result.epoch == 1:
            self._act()


def test_a_signal_without_artifacts_is_still_a_signal(store: str, colors: Path) -> None:
    """Where the reason cannot be recorded any more, the run is KILLED all the same."""

    def cut() -> None:
        lose_artifacts(store)
        os.kill(os.getpid(), signal.SIGTERM)

    plan = plan_training({"train_data": str(colors), **TINY, "epochs": 3})
    with pytest.raises(RunInterruptedError), interrupt_on_signals():
        train_run(plan, AfterFirstEpoch(cut))
    assert [run.info.status for run in runs(store)] == ["KILLED"]


def test_a_loss_that_is_no_number_is_told_without_artifacts(store: str, colors: Path) -> None:
    """What went wrong first is what is told, not that it cannot be recorded."""
    data = {"train_data": str(colors), "valid_data": str(colors)}
    settings = {**TINY, "batch_size": 36, "learning_rate": 1e38}
    with pytest.raises(NonFiniteLossError):
        train_run(
            plan_training({**data, **settings}),
            AfterFirstEpoch(lambda: lose_artifacts(store)),
        )


def test_a_run_that_mlflow_opened_is_used_once(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training of one process below `mlflow run` has a run of its own."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    opened = client.create_run(experiment.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    results = [
        trialrun.train(train_data=str(colors), learning_rate=rate, **TINY) for rate in (0.01, 0.02)
    ]
    assert results[0].run_id == opened != results[1].run_id
    assert client.get_run(results[1].run_id).data.params["learning_rate"] == "0.02"


_LIBRARY = """
import os, signal, sys, threading, time
import mlflow, torch, trialrun

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def send_once_under_way():
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tests").experiment_id
    while not any(client.get_metric_history(run.info.run_id, "train_loss")
                  for run in client.search_runs([experiment])):
        time.sleep(0.1)
    os.kill(os.getpid(), int(sys.argv[2]))

threading.Thread(target=send_once_under_way, daemon=True).start()
try:
    trialrun.train(train_data=sys.argv[1], model="shufflenet_v2_x0_5", batch_size=8,
                   epochs=100000, patience=100000, precision="fp32")
except KeyboardInterrupt:
    print("interrupted as ever")
"""


@pytest.mark.parametrize(("number", "code", "told"), [(2, 0, "interrupted as ever"), (15, -15, "")])
def test_a_signal_in_a_callers_process(
    store: str, colors: Path, number: int, code: int, told: str
) -> None:
    """The run is KILLED and says why; then the signal does to the process what it always does."""
    done = subprocess.run(
        [sys.executable, "-c", _LIBRARY, str(colors), str(number)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (code, told), done.stderr
    (run,) = runs(store)
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "killed")
