"""Several workers on one study in PostgreSQL, some of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from postgres import cluster, programs
from test_search import nested_runs, settings
from trialrun.search.storage import open_storage


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
        trials=40,
        workers=4,
        study="killed",
        storage=postgres,
        heartbeat_seconds=1,
        pruner="none",
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
        colors, trials=6, study="shared", storage=postgres, register_as="shared", pruner="none"
    )
    one, other = (answer(process) for process in [begin(given), begin(given)])
    assert one["run_id"] == other["run_id"]
    assert one["weights_sha256"] == other["weights_sha256"]
    assert one["num_trials"]["complete"] == other["num_trials"]["complete"] == 6
    assert len(nested_runs(store, one["run_id"])) == 6
    client = mlflow.MlflowClient(store)
    assert len(client.search_model_versions("name = 'shared'")) == 1
    assert client.get_run(one["run_id"]).info.status == "FINISHED"
