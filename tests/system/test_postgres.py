"""Several workers on one study in a real PostgreSQL server, some of them killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from tests.processes import ForkedProgram
from tests.tracking.test_conflicts import check_datasets
from tests.tuning.conftest import SMALL, nested_runs, settings
from trialrun.cli import run_cli
from trialrun.tuning.callbacks import NoOpSearchCallback, TrialReport
from trialrun.tuning.plan import plan_search
from trialrun.tuning.storage_url import with_driver
from trialrun.tuning.study.attrs import FINALIZED
from trialrun.tuning.study.storage import StudyStorage, open_storage


def start_search(raw_settings: dict[str, Any]) -> ForkedProgram:
    """Start a search in a separate process."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in raw_settings.items()]
    command = [sys.executable, "-m", "trialrun", "search", "--json", *flags]
    return ForkedProgram(command, stdout=subprocess.PIPE)


def read_result(process: ForkedProgram) -> dict[str, Any]:
    """Wait for a search; return the result that it printed."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def load_trials(url: str, name: str) -> list[Any]:
    """Return the trials of a study in the storage; an empty list without the study."""
    import optuna

    with closing(open_storage(url, heartbeat_seconds=1)) as storage:
        try:
            return optuna.load_study(study_name=name, storage=storage.rdb).get_trials()
        except KeyError:
            return []


def wait_for_workers(process: ForkedProgram, url: str, name: str) -> list[int]:
    """Wait until at least three of four workers train; return the workers' process ids."""
    from optuna.trial import TrialState

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        pids = [child.pid for child in children if "trialrun.tuning.workers" in child.cmdline()]
        states = [trial.state for trial in load_trials(url, name)]
        if len(pids) == 4 and states.count(TrialState.RUNNING) >= 3:
            return pids
        time.sleep(0.1)
    raise AssertionError("the workers did not start")


@pytest.mark.slow
def test_trials_of_killed_workers_are_retried(postgres: str, store: str, colors: Path) -> None:
    """Two of four workers get SIGKILL during a trial: exactly 16 trials complete."""
    from optuna.trial import TrialState

    raw_settings = settings(
        colors,
        pruner="none",
        trials=16,
        workers=4,
        study="killed",
        storage=postgres,
        heartbeat_seconds=1,
    )
    process = start_search(raw_settings)
    for pid in wait_for_workers(process, postgres, "killed")[:2]:
        os.kill(pid, signal.SIGKILL)
    result = read_result(process)
    trials = load_trials(postgres, "killed")
    states = [trial.state for trial in trials]
    assert states.count(TrialState.COMPLETE) == 16
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    runs = nested_runs(store, result["run_id"])
    assert sum(run.info.status == "FINISHED" for run in runs) == 16
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len({trial.params["learning_rate"] for trial in completed}) == 16


OPEN_STORAGE = """
import sys
from trialrun.tuning.study.storage import open_storage

open_storage(sys.argv[1], heartbeat_seconds=1).close()
"""


@pytest.mark.slow
def test_concurrent_processes_create_the_tables_once(postgres: str) -> None:
    """Four processes open an empty database; a second creation of a table would fail."""
    from sqlalchemy import create_engine, text

    engine = create_engine(with_driver(postgres), isolation_level="AUTOCOMMIT")
    with closing(engine.connect()) as connection:
        connection.execute(text("CREATE DATABASE empty"))
    engine.dispose()
    url = postgres.replace("/postgres", "/empty")
    processes = [ForkedProgram([sys.executable, "-c", OPEN_STORAGE, url]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


@pytest.mark.slow
def test_two_searches_share_a_study(postgres: str, store: str, colors: Path) -> None:
    """The same command runs twice at once: the requested number of trials, and one version."""
    import mlflow

    raw_settings = settings(
        colors, pruner="none", trials=6, study="shared", storage=postgres, register_as="shared"
    )
    processes = [start_search(raw_settings), start_search(raw_settings)]
    first, second = (read_result(process) for process in processes)
    assert first["run_id"] == second["run_id"]
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["num_trials"]["complete"] == second["num_trials"]["complete"] == 6
    assert len(nested_runs(store, first["run_id"])) == 6
    client = mlflow.MlflowClient(store)
    assert len(client.search_model_versions("name = 'shared'")) == 1
    assert client.get_run(first["run_id"]).info.status == "FINISHED"


@pytest.fixture(scope="module")
def mlflow_database(postgres: str) -> str:
    """Create a database with MLflow's tables only, and return its URI."""
    import mlflow
    from sqlalchemy import create_engine, text

    engine = create_engine(with_driver(postgres), isolation_level="AUTOCOMMIT")
    with closing(engine.connect()) as connection:
        connection.execute(text("CREATE DATABASE tracking"))
    engine.dispose()
    uri = with_driver(postgres.replace("/postgres", "/tracking"))
    mlflow.MlflowClient(uri).search_experiments(max_results=1)
    return uri


@pytest.fixture
def tracked_in_postgres(mlflow_database: str, store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the PostgreSQL database the tracking store, and return its URI."""
    uri = mlflow_database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.chdir(Path(store.removeprefix("sqlite:///")).parent)  # the artifacts go there
    return uri


@pytest.mark.slow
def test_processes_log_the_same_new_dataset_at_once(
    tracked_in_postgres: str, tmp_path: Path
) -> None:
    """A refused insert is tried again, and psycopg's message about it is not printed."""
    check_datasets(tracked_in_postgres, 12, tmp_path)


@pytest.mark.slow
def test_longest_legal_names_fit_the_columns(tracked_in_postgres: str, colors: Path) -> None:
    """PostgreSQL refuses longer values than its columns hold; SQLite does not."""
    import trialrun

    name = "é" * 256
    values: dict[str, Any] = {"experiment": name, "run_name": "é" * 250, "register_as": name}
    result = trialrun.train(train_data=str(colors), epochs=1, **SMALL, **values)
    assert (result.model_name, result.model_version) == (name, "1")


@pytest.mark.slow
def test_too_long_experiment_of_the_environment_is_reported(
    tracked_in_postgres: str,
    colors: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error has two lines, and the hint names the length."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "e" * 300)
    assert run_cli(["train", "--train-data", str(colors)]) == 5
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("Error: TrackingError: the active experiment cannot be opened")
    assert hint == "Hint: Use a shorter name or value: the database limits its length."


# Closes the idle connections that hold a lock: those of search owners.
_CLOSE_OWNER_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND state = 'idle'"
)


def close_owner_connections(storage: StudyStorage) -> int:
    """Let the server close the connections of search owners; return their number."""
    with storage.rdb.engine.begin() as connection:
        return len(connection.execute(text(_CLOSE_OWNER_CONNECTIONS)).all())


def test_a_lock_is_taken_again_after_a_connection_loss(postgres: str) -> None:
    """If no other process took it first, it stays held until it is released."""
    with (
        closing(open_storage(postgres, heartbeat_seconds=1)) as ours,
        closing(open_storage(postgres, heartbeat_seconds=1)) as theirs,
    ):
        with ours.try_lock("one") as lock:
            assert close_owner_connections(theirs) == 1
            assert lock
            assert lock.is_held()
            with theirs.try_lock("one") as their_lock:
                assert their_lock is None
        with theirs.try_lock("one") as their_lock:
            assert their_lock


def test_a_lock_that_another_process_took_is_not_held(postgres: str) -> None:
    """After a connection loss the other process keeps the lock; our release does not end it."""
    with (
        closing(open_storage(postgres, heartbeat_seconds=1)) as ours,
        closing(open_storage(postgres, heartbeat_seconds=1)) as theirs,
        ExitStack() as stack,
    ):
        lock = stack.enter_context(ours.try_lock("two"))
        assert close_owner_connections(theirs) == 1
        with theirs.try_lock("two") as their_lock:
            assert their_lock
            assert lock
            assert not lock.is_held()
            stack.close()
            assert their_lock.is_held()
            with ours.try_lock("two") as our_lock:
                assert our_lock is None


@pytest.mark.slow
def test_a_search_survives_a_connection_loss(postgres: str, store: str, colors: Path) -> None:
    """The owner's connection is closed during the first trial: the search creates one version."""
    import mlflow

    raw_settings = settings(colors, trials=3, study="cut", storage=postgres, register_as="cut")
    process = start_search({**raw_settings, "pruner": "none"})
    with closing(open_storage(postgres, heartbeat_seconds=1)) as storage:
        while not load_trials(postgres, "cut"):
            assert process.poll() is None
            time.sleep(0.1)
        assert close_owner_connections(storage) == 1
    result = read_result(process)
    assert result["num_trials"]["complete"] == 3
    client = mlflow.MlflowClient(store)
    assert client.get_run(result["run_id"]).info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'cut'")) == 1


@pytest.mark.slow
def test_a_search_is_finalized_by_one_process_only(postgres: str, store: str, colors: Path) -> None:
    """Another process takes the lock during the search: the first owner waits for it."""
    from trialrun.tuning.run import execute_search

    raw_settings = settings(colors, trials=1, study="taken", storage=postgres, register_as="taken")
    with (
        closing(open_storage(postgres, heartbeat_seconds=1)) as storage,
        ThreadPoolExecutor(1) as pool,
    ):
        callback = LockTakingCallback(storage, "taken/owner")
        search = pool.submit(execute_search, plan_search(raw_settings), callback)
        assert callback.has_lost_lock.wait(120)
        assert load_user_attrs(storage, "taken").get(FINALIZED) is None
        assert not search.done()
        callback.release_lock()
        assert search.result(120).model_version == "1"


class LockTakingCallback(NoOpSearchCallback):
    """Takes the owner's lock after the first trial, as another process would."""

    def __init__(self, storage: StudyStorage, name: str) -> None:
        self._storage, self._name, self._stack = storage, name, ExitStack()
        self.has_lost_lock = threading.Event()

    def on_trial_end(self, report: TrialReport) -> None:
        """Close the owner's connection and take its lock."""
        assert close_owner_connections(self._storage) == 1
        assert self._stack.enter_context(self._storage.try_lock(self._name))

    def on_note(self, text: str) -> None:
        """Set the event when the search leaves its finalization to another process."""
        if "another process finalizes" in text:
            self.has_lost_lock.set()

    def release_lock(self) -> None:
        """Release the lock without finalizing the search, as a process that dies."""
        self._stack.close()


def load_user_attrs(storage: StudyStorage, name: str) -> dict[str, Any]:
    """Return the user attributes of a study."""
    import optuna

    user_attrs: dict[str, Any] = optuna.load_study(study_name=name, storage=storage.rdb).user_attrs
    return user_attrs
