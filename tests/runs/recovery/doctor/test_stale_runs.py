"""Runs that say RUNNING: which of them are stale."""

import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.runs.recovery.doctor.left_runs import (
    find_folder,
    leave_run,
    make_dead_heartbeat,
)
from trialrun.runs.recovery.doctor import stale_runs
from trialrun.runs.recovery.doctor.findings import NOTE, OK, PROBLEM
from trialrun.runs.recovery.doctor.stale_runs import RunningRuns, find_running, judge_running
from trialrun.tracking import open_run
from trialrun.tracking.heartbeat import make_heartbeat


def find(store: str) -> RunningRuns:
    """Return the running runs of the store."""
    return find_running(mlflow.MlflowClient(store))


def test_run_whose_process_is_gone_is_stale(store: str, tmp_path: Path) -> None:
    """The finding names the run, and how to go on."""
    run_id = leave_run(store, tmp_path)
    running = find(store)
    (finding,) = judge_running(running)
    assert (finding.state, finding.run_id, finding.exit_code) == (PROBLEM, run_id, 5)
    assert run_id in finding.text
    assert f"trialrun resume {run_id}" in finding.remedy
    assert running.stale[0].is_certain
    assert running.roots == {tmp_path}


def test_run_whose_lock_is_held_is_in_progress(store: str, tmp_path: Path) -> None:
    """So it is on a machine that shares the folder, whatever the heartbeat says."""
    run_id = leave_run(store, tmp_path, heartbeat=make_dead_heartbeat(host="other", time=0))
    with find_folder(store, run_id).lock():
        running = find(store)
    assert (running.num_alive, running.stale) == (1, [])
    (finding,) = judge_running(running)
    assert finding.state == OK


def test_run_without_a_folder_is_judged_by_its_process(store: str) -> None:
    """Such as that of an evaluation."""
    with open_run(mlflow.MlflowClient(store), experiment=None, name=None, tags={}):
        assert (find(store).num_alive, find(store).stale) == (1, [])
        run_id = leave_run(store, None)
        (stale,) = find(store).stale
        assert (stale.run_id, stale.folder) == (run_id, None)


@pytest.mark.parametrize(("age", "num_stale"), [(30, 0), (590, 0), (610, 1)])
def test_run_of_another_host_is_judged_by_the_age_of_its_heartbeat(
    store: str, tmp_path: Path, age: int, num_stale: int
) -> None:
    """After ten minutes its process is probably gone."""
    heartbeat = make_dead_heartbeat(host="other", time=time.time() - age)
    leave_run(store, None, heartbeat=heartbeat, tags={"trialrun.run_folder": "/not/here"})
    stale = find(store).stale
    assert len(stale) == num_stale
    assert all("probably gone" in run.describe() and not run.is_certain for run in stale)


def test_other_runs_are_noted(store: str) -> None:
    """Those of other programs, and those of other hosts that send no heartbeats."""
    remote = leave_run(store, None, heartbeat=make_dead_heartbeat(host="other", time=0))
    unknown = leave_run(store, None, tags={"trialrun.heartbeat": "x"})
    findings = list(judge_running(find(store)))
    assert [finding.state for finding in findings] == [NOTE, NOTE, OK]
    assert remote in findings[0].text
    assert unknown in findings[1].text


def test_trial_is_continued_by_its_search(store: str, tmp_path: Path) -> None:
    """`resume` would refuse it."""
    leave_run(store, tmp_path, tags={"study": "colors"})
    (finding,) = judge_running(find(store))
    assert "trialrun search --study colors" in finding.remedy
    assert "trialrun resume" not in finding.remedy


def test_all_pages_are_read_and_only_running_runs(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large store has many runs and experiments."""
    monkeypatch.setattr(stale_runs, "_PAGE_SIZE", 2)
    client = mlflow.MlflowClient(store)
    for number in range(4):
        client.create_experiment(f"other{number}")
    ids = [leave_run(store, None) for _ in range(5)]
    client.set_terminated(ids[0], "FAILED")
    assert {run.run_id for run in find(store).stale} == set(ids[1:])


def test_heartbeat_of_a_resumed_run_counts(store: str, tmp_path: Path) -> None:
    """The process that resumed the run lives, and has not taken the lock on this machine."""
    run_id = leave_run(store, tmp_path)
    heartbeat: Any = make_heartbeat()
    mlflow.MlflowClient(store).set_tag(run_id, "trialrun.heartbeat", heartbeat.to_tag())
    assert find(store).num_alive == 1
