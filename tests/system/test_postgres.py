"""Several workers on one study in a real PostgreSQL, some of them killed.

The server is the tests' own: Debian's programs, a temporary cluster of an unprivileged user,
loopback, a free port.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from tests.tuning.conftest import nested_runs, settings
from trialrun.tuning.callbacks import NoOpSearchCallback
from trialrun.tuning.plan import plan_search
from trialrun.tuning.study.storage import StudyStorage, open_storage, with_driver
from trialrun.tuning.study.study import CONCLUDED

_USER = "nobody"  # PostgreSQL refuses to run as root


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a database that is there until the context is left."""
    folder = Path(tempfile.mkdtemp(prefix="trialrun-postgres-"))
    bin_folder = programs()
    assert bin_folder is not None
    if os.getuid() == 0:
        shutil.chown(folder, _USER)
    data, port = folder / "data", _free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    _run(bin_folder / "initdb", "-D", data, "-U", "trialrun", "-A", "trust", "-E", "UTF8")
    control = (bin_folder / "pg_ctl", "-D", data, "-w", "-l", folder / "log")
    _run(*control, "-o", options, "start")
    try:
        yield f"postgresql://trialrun@127.0.0.1:{port}/postgres"
    finally:
        _run(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    if os.getuid() == 0:
        words = ["runuser", "-u", _USER, "--", *words]
    subprocess.run(words, check=True, cwd="/", stdout=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL that is there for this module."""
    if programs() is None and os.environ.get("CI") != "true":
        pytest.skip(
            "PostgreSQL's programs are not on this machine (Debian: apt install postgresql)"
        )
    with cluster() as url:
        yield url


def begin(raw_settings: dict[str, Any]) -> "subprocess.Popen[str]":
    """A search in a process of its own."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in raw_settings.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "trialrun", "search", "--json", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a search printed at its end."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def studied(url: str, name: str) -> list[Any]:
    """The study's trials as the storage has them; none where there is no study."""
    import optuna

    with closing(open_storage(url, heartbeat_seconds=1)) as storage:
        try:
            return optuna.load_study(study_name=name, storage=storage.rdb).get_trials()
        except KeyError:
            return []


def workers_in_trials(process: "subprocess.Popen[str]", url: str, name: str) -> list[int]:
    """The processes of workers, once three of them at least are in the middle of a trial."""
    from optuna.trial import TrialState

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        pids = [
            child.pid for child in children if "trialrun.tuning.workers.__main__" in child.cmdline()
        ]
        states = [trial.state for trial in studied(url, name)]
        if len(pids) == 4 and states.count(TrialState.RUNNING) >= 3:
            return pids
        time.sleep(0.1)
    raise AssertionError("the workers did not begin")


@pytest.mark.slow
def test_killed_workers_lose_no_trial(postgres: str, store: str, colors: Path) -> None:
    """Two workers of four get SIGKILL in mid-trial: exactly 40 trials complete, none is left."""
    from optuna.trial import TrialState

    raw_settings = settings(
        colors,
        pruner="none",
        trials=40,
        workers=4,
        study="killed",
        storage=postgres,
        heartbeat_seconds=1,
    )
    process = begin(raw_settings)
    for pid in workers_in_trials(process, postgres, "killed")[:2]:
        os.kill(pid, signal.SIGKILL)
    result = answer(process)
    trials = studied(postgres, "killed")
    states = [trial.state for trial in trials]
    assert states.count(TrialState.COMPLETE) == 40
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    runs = nested_runs(store, result["run_id"])
    assert sum(run.info.status == "FINISHED" for run in runs) == 40
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len({trial.params["learning_rate"] for trial in completed}) == 40


OPEN = """
import sys
from trialrun.tuning.study.storage import with_driver, open_storage

open_storage(sys.argv[1], heartbeat_seconds=1).close()
"""


def test_machines_that_come_first_at_once_make_the_tables_once(postgres: str) -> None:
    """Four processes open an empty database; the server would refuse a table made twice."""
    from sqlalchemy import create_engine, text

    engine = create_engine(with_driver(postgres), isolation_level="AUTOCOMMIT")
    with closing(engine.connect()) as connection:
        connection.execute(text("CREATE DATABASE empty"))
    engine.dispose()
    url = postgres.replace("/postgres", "/empty")
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, url]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


def test_two_machines_share_a_study(postgres: str, store: str, colors: Path) -> None:
    """The same command twice at once: as many trials as asked for in all, and one version."""
    import mlflow

    raw_settings = settings(
        colors, pruner="none", trials=6, study="shared", storage=postgres, register_as="shared"
    )
    one, other = (answer(process) for process in [begin(raw_settings), begin(raw_settings)])
    assert one["run_id"] == other["run_id"]
    assert one["weights_sha256"] == other["weights_sha256"]
    assert one["num_trials"]["complete"] == other["num_trials"]["complete"] == 6
    assert len(nested_runs(store, one["run_id"])) == 6
    client = mlflow.MlflowClient(store)
    assert len(client.search_model_versions("name = 'shared'")) == 1
    assert client.get_run(one["run_id"]).info.status == "FINISHED"


# The connections that hold a lock and do nothing else: an owner's, between calls.
_OWNERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND state = 'idle'"
)


def cut_owners(storage: StudyStorage) -> int:
    """Have the server cut the connections that hold owners' locks; how many there were."""
    with storage.rdb.engine.begin() as connection:
        return len(connection.execute(text(_OWNERS)).all())


def test_a_lock_whose_connection_was_cut_is_taken_again(postgres: str) -> None:
    """Nobody came first: it is kept, nobody else gets it, and leaving it is no error."""
    with (
        closing(open_storage(postgres, heartbeat_seconds=1)) as ours,
        closing(open_storage(postgres, heartbeat_seconds=1)) as theirs,
    ):
        with ours.try_lock("one") as lock:
            assert cut_owners(theirs) == 1
            assert lock
            assert lock.is_held()
            with theirs.try_lock("one") as other:
                assert other is None
        with theirs.try_lock("one") as other:
            assert other


def test_a_lock_that_another_has_taken_is_known_to_be_lost(postgres: str) -> None:
    """Its connection was cut, and who came first keeps it, after we have left as well."""
    with (
        closing(open_storage(postgres, heartbeat_seconds=1)) as ours,
        closing(open_storage(postgres, heartbeat_seconds=1)) as theirs,
        ExitStack() as stack,
    ):
        lock = stack.enter_context(ours.try_lock("two"))
        assert cut_owners(theirs) == 1
        with theirs.try_lock("two") as other:
            assert other
            assert lock
            assert not lock.is_held()
            stack.close()
            assert other.is_held()
            with ours.try_lock("two") as again:
                assert again is None


def test_a_cut_connection_costs_no_search(postgres: str, store: str, colors: Path) -> None:
    """The owner's is cut during the first trial: the search ends well, with one version."""
    import mlflow

    raw_settings = settings(colors, trials=3, study="cut", storage=postgres, register_as="cut")
    process = begin({**raw_settings, "pruner": "none"})
    with closing(open_storage(postgres, heartbeat_seconds=1)) as storage:
        while not studied(postgres, "cut"):
            assert process.poll() is None
            time.sleep(0.1)
        assert cut_owners(storage) == 1
    result = answer(process)
    assert result["num_trials"]["complete"] == 3
    client = mlflow.MlflowClient(store)
    assert client.get_run(result["run_id"]).info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'cut'")) == 1


def test_what_another_machine_concludes_is_not_concluded_twice(
    postgres: str, store: str, colors: Path
) -> None:
    """The lock was cut and taken during the search: its owner waits, and takes the result."""
    from trialrun.tuning.run import run_search

    raw_settings = settings(colors, trials=1, study="taken", storage=postgres, register_as="taken")
    with (
        closing(open_storage(postgres, heartbeat_seconds=1)) as storage,
        ThreadPoolExecutor(1) as pool,
    ):
        watching = Robbed(storage, "taken/owner")
        searching = pool.submit(run_search, plan_search(raw_settings), watching)
        assert watching.is_told.wait(120)
        assert studied_attributes(storage, "taken").get(CONCLUDED) is None
        assert not searching.done()
        watching.requeue()
        assert searching.result(120).model_version == "1"


class Robbed(NoOpSearchCallback):
    """Cuts and takes the owner's lock when the first trial has ended."""

    def __init__(self, storage: StudyStorage, name: str) -> None:
        self._storage, self._name, self._stack = storage, name, ExitStack()
        self.is_told = threading.Event()

    def trial(self, text: str) -> None:
        """Be the other machine."""
        assert cut_owners(self._storage) == 1
        assert self._stack.enter_context(self._storage.try_lock(self._name))

    def note(self, text: str) -> None:
        """Learn that the search leaves the conclusion to another machine."""
        if "another machine concludes" in text:
            self.is_told.set()

    def requeue(self) -> None:
        """Let go of the lock without having concluded, as a machine that dies."""
        self._stack.close()


def studied_attributes(storage: StudyStorage, name: str) -> dict[str, Any]:
    """What a study carries."""
    import optuna

    attributes: dict[str, Any] = optuna.load_study(study_name=name, storage=storage.rdb).user_attrs
    return attributes
