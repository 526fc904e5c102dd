"""The repairs of `trialrun doctor --fix`."""

import os
from pathlib import Path

import mlflow
import pytest

from tests.runs.recovery.doctor.left_runs import (
    append_records,
    find_folder,
    flip_byte,
    leave_run,
    make_dead_heartbeat,
    now_ms,
    read_run,
    write_checkpoints,
)
from trialrun.checkpoint.run_folder import FOLDER_TAG, create_run_folder, list_run_folders
from trialrun.runs.recovery.doctor.examination import Diagnosis, diagnose
from trialrun.runs.recovery.doctor.findings import PROBLEM
from trialrun.runs.recovery.doctor.repair import end_stale_runs
from trialrun.runs.recovery.doctor.stale_runs import find_running
from trialrun.tracking import name_store, open_run
from trialrun.tracking.records import Record


def repair(root: Path) -> Diagnosis:
    """Repair twice: the second time there is nothing to do; return the first diagnosis."""
    first = diagnose(str(root), fix=True)
    assert diagnose(str(root), fix=True).repairs == []
    return first


def test_killed_run_ends_as_killed_and_keeps_its_checkpoints(store: str, tmp_path: Path) -> None:
    """Its tag says why; the journal stays open, so that `resume` continues the run."""
    run_id = leave_run(store, tmp_path)
    folder = find_folder(store, run_id)
    write_checkpoints(folder)
    append_records(folder, Record("tags", {"tags": {"a": "b"}}), acknowledge=1)
    (text,) = repair(tmp_path).repairs
    assert f"run {run_id} (left): ended as KILLED" in text
    run = read_run(store, run_id)
    assert (run.info.status, run.data.tags["stop_reason"]) == ("KILLED", "killed")
    assert "is gone; ended by `trialrun doctor --fix`" in run.data.tags["error"]
    assert abs(run.info.end_time - now_ms()) < 60_000
    assert len(list(folder.checkpoints.iterdir())) == 2


def test_run_whose_journal_holds_its_end_gets_that_status(store: str, tmp_path: Path) -> None:
    """The records are sent before stale runs are ended; a finished run's folder is deleted."""
    run_id = leave_run(store, tmp_path)
    folder = find_folder(store, run_id)
    end = Record("end", {"status": "FINISHED", "end_time": now_ms()})
    append_records(folder, Record("tags", {"tags": {"a": "b"}}), end)
    (text,) = repair(tmp_path).repairs
    assert text == f"run {run_id}: 2 records sent"
    run = read_run(store, run_id)
    assert (run.info.status, run.data.tags["a"]) == ("FINISHED", "b")
    assert "error" not in run.data.tags
    assert not folder.path.exists()


def test_run_whose_journal_holds_an_error_ends_as_failed(store: str, tmp_path: Path) -> None:
    """Its process was killed between the error and the end of the run."""
    run_id = leave_run(store, tmp_path)
    error = Record("tags", {"tags": {"error": "NonFiniteLossError: the loss is NaN"}})
    append_records(find_folder(store, run_id), error)
    repair(tmp_path)
    run = read_run(store, run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "NonFiniteLossError: the loss is NaN"
    assert "stop_reason" not in run.data.tags


def test_run_with_a_damaged_journal_ends_as_killed(store: str, tmp_path: Path) -> None:
    """The damage itself remains a problem."""
    run_id = leave_run(store, tmp_path)
    folder = find_folder(store, run_id)
    append_records(folder, *[Record("tags", {"tags": {"error": "x"}})] * 2)
    path = folder.journal / "records.jsonl"
    path.write_bytes(b"#" + path.read_bytes())
    findings = diagnose(str(tmp_path), fix=True).findings
    assert read_run(store, run_id).info.status == "KILLED"
    assert [item.exit_code for item in findings if item.state == PROBLEM] == [6]


def test_folder_without_owner_gets_its_run(store: str, tmp_path: Path) -> None:
    """Its process was killed just after it had created the run."""
    run_id = leave_run(store, tmp_path)
    folder = find_folder(store, run_id)
    (folder.path / "owner.json").unlink()
    repair(tmp_path)
    assert folder.run_id == run_id


def test_runs_of_living_processes_are_not_touched(store: str, tmp_path: Path) -> None:
    """Neither that of a training, which holds its lock, nor that of another command."""
    run_id = leave_run(store, tmp_path)
    with (
        find_folder(store, run_id).lock(),
        open_run(mlflow.MlflowClient(store), experiment=None, name=None, tags={}) as run,
    ):
        assert repair(tmp_path).repairs == []
        assert read_run(store, run_id).info.status == "RUNNING"
        assert read_run(store, run.run_id).info.status == "RUNNING"


def test_run_that_was_resumed_meanwhile_is_not_ended(store: str, tmp_path: Path) -> None:
    """Between the search and the repair, another process has written its heartbeat."""
    run_id = leave_run(store, tmp_path)
    client = mlflow.MlflowClient(store)
    stale = find_running(client).stale
    new = make_dead_heartbeat(host="other").to_tag()
    client.set_tag(run_id, "trialrun.heartbeat", new)
    assert list(end_stale_runs(client, stale)) == []
    assert read_run(store, run_id).info.status == "RUNNING"


def test_run_that_is_probably_gone_is_ended_with_that_word(store: str, tmp_path: Path) -> None:
    """It is of another host, whose processes cannot be seen."""
    heartbeat = make_dead_heartbeat(host="other", time=0)
    run_id = leave_run(store, tmp_path, heartbeat=heartbeat)
    repair(tmp_path)
    run = read_run(store, run_id)
    assert run.info.status == "KILLED"
    assert "on other is probably gone" in run.data.tags["error"]


def test_damaged_checkpoint_is_deleted_beside_an_intact_one(store: str, tmp_path: Path) -> None:
    """The intact one remains."""
    run_id = leave_run(store, tmp_path)
    mlflow.MlflowClient(store).set_terminated(run_id, "KILLED")
    older, newest = write_checkpoints(find_folder(store, run_id))
    flip_byte(newest)
    (text,) = repair(tmp_path).repairs
    assert f"run {run_id}: deleted checkpoint 2" in text
    assert older.exists()
    assert not newest.exists()


def test_last_checkpoint_is_never_deleted(store: str, tmp_path: Path) -> None:
    """Even if all are damaged: what is left may be of use to a person."""
    run_id = leave_run(store, tmp_path)
    mlflow.MlflowClient(store).set_terminated(run_id, "KILLED")
    paths = write_checkpoints(find_folder(store, run_id))
    for path in paths:
        flip_byte(path)
    diagnosis = repair(tmp_path)
    assert diagnosis.repairs == []
    assert [f.exit_code for f in diagnosis.findings if f.state == PROBLEM] == [6]
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("status", ["FINISHED", "KILLED"])
def test_only_the_folder_of_a_finished_run_is_deleted(
    store: str, tmp_path: Path, status: str
) -> None:
    """Others are needed to resume."""
    run_id = leave_run(store, tmp_path)
    mlflow.MlflowClient(store).set_terminated(run_id, status)
    folder = find_folder(store, run_id)
    is_kept = status == "KILLED"
    assert len(repair(tmp_path).repairs) == (0 if is_kept else 1)
    assert folder.path.exists() == is_kept


def test_folder_whose_run_was_never_created_is_deleted(store: str, tmp_path: Path) -> None:
    """A new one remains, one that a run names, and one of another store."""
    values = {"settings": {}, "tracking_uri": name_store(store)}
    killed, named, new = (create_run_folder(tmp_path, values) for _ in range(3))
    other = create_run_folder(tmp_path, {**values, "tracking_uri": "http://127.0.0.1"})
    client = mlflow.MlflowClient(store)
    client.create_run("0", tags={FOLDER_TAG: str(named.path)})
    for folder in (killed, named, other):
        os.utime(folder.settings_path, (0, 0))
    assert repair(tmp_path).repairs == [f"folder {killed.path} deleted, its run was never created"]
    remaining = {folder.path for folder in list_run_folders(tmp_path)}
    assert remaining == {named.path, new.path, other.path}
