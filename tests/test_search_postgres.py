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
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from searching import nested_runs, settings
from trialrun.search.storage import open_storage

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


def begin(given: dict[str, Any]) -> "subprocess.Popen[str]":
    """A search in a process of its own."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
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
        pids = [child.pid for child in children if "trialrun.search.worker" in child.cmdline()]
        states = [trial.state for trial in studied(url, name)]
        if len(pids) == 4 and states.count(TrialState.RUNNING) >= 3:
            return pids
        time.sleep(0.1)
    raise AssertionError("the workers did not begin")


def test_killed_workers_lose_no_trial(postgres: str, store: str, colors: Path) -> None:
    """Two workers of four get SIGKILL in mid-trial: exactly 40 trials complete, none is left."""
    from optuna.trial import TrialState

    given = settings(
        colors,
        pruner="none",
        trials=40,
        workers=4,
        study="killed",
        storage=postgres,
        heartbeat_seconds=1,
    )
    process = begin(given)
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


def test_two_machines_share_a_study(postgres: str, store: str, colors: Path) -> None:
    """The same command twice at once: as many trials as asked for in all, and one version."""
    import mlflow

    given = settings(
        colors, pruner="none", trials=6, study="shared", storage=postgres, register_as="shared"
    )
    one, other = (answer(process) for process in [begin(given), begin(given)])
    assert one["run_id"] == other["run_id"]
    assert one["weights_sha256"] == other["weights_sha256"]
    assert one["num_trials"]["complete"] == other["num_trials"]["complete"] == 6
    assert len(nested_runs(store, one["run_id"])) == 6
    client = mlflow.MlflowClient(store)
    assert len(client.search_model_versions("name = 'shared'")) == 1
    assert client.get_run(one["run_id"]).info.status == "FINISHED"
