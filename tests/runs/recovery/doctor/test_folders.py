"""Run folders: unsent records, damaged checkpoints, and what they are kept for."""

import os
import shutil
import time
from pathlib import Path

import mlflow
import pytest

from tests.runs.recovery.doctor.left_runs import (
    append_records,
    find_folder,
    flip_byte,
    leave_run,
    write_checkpoints,
    write_owner,
)
from trialrun.checkpoint.run_folder import create_run_folder, list_run_folders
from trialrun.runs.recovery.doctor.findings import NOTE, PROBLEM, Finding
from trialrun.runs.recovery.doctor.folders import FolderState, inspect_folders, judge_folders
from trialrun.tracking import name_store
from trialrun.tracking.records import Record

TAG = Record("tags", {"tags": {"a": "b"}})


def inspect(store: str, root: Path) -> list[FolderState]:
    """Return the states of the folders below `root`."""
    client = mlflow.MlflowClient(store)
    return inspect_folders(client, list_run_folders(root), name_store(store))


def judge(store: str, root: Path) -> list[Finding]:
    """Return the findings about the folders below `root`."""
    return list(judge_folders(inspect(store, root)))


def test_unsent_records_are_counted_with_their_age(store: str, tmp_path: Path) -> None:
    """They are a problem that `--fix` solves."""
    run_id = leave_run(store, tmp_path)
    folder = find_folder(store, run_id)
    append_records(folder, TAG, TAG, TAG, acknowledge=1)
    hours_ago = time.time() - 3 * 3600
    os.utime(folder.journal / "records.jsonl", (hours_ago, hours_ago))
    records, _ = judge(store, tmp_path)
    assert (records.state, records.exit_code, records.is_fixable) == (PROBLEM, 5, True)
    assert records.text == f"2 of run {run_id}, 3 hours old"


def test_records_of_a_deleted_run_cannot_be_sent(store: str, tmp_path: Path) -> None:
    """The remedy restores the run."""
    run_id = leave_run(store, tmp_path)
    append_records(find_folder(store, run_id), TAG)
    mlflow.MlflowClient(store).delete_run(run_id)
    records, _ = judge(store, tmp_path)
    assert (records.state, records.is_fixable) == (PROBLEM, False)
    assert f"mlflow runs restore --run-id {run_id}" in records.remedy


def test_records_of_another_store_are_a_note(store: str, tmp_path: Path) -> None:
    """They are sent when that store is the present one."""
    folder = create_run_folder(tmp_path, {})
    write_owner(folder, "http://127.0.0.1:1", "f" * 32, "0")
    append_records(folder, TAG)
    records, summary = judge(store, tmp_path)
    assert (records.state, summary.state) == (NOTE, NOTE)
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:1" in records.remedy
    assert "of another store" in summary.text


def test_damaged_journal_is_a_storage_problem(store: str, tmp_path: Path) -> None:
    """The text names the record."""
    folder = find_folder(store, leave_run(store, tmp_path))
    append_records(folder, TAG, TAG)
    path = folder.journal / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"#" + content[21:])
    damaged, _ = judge(store, tmp_path)
    assert (damaged.state, damaged.exit_code) == (PROBLEM, 6)
    assert "record 1 " in damaged.text


@pytest.mark.parametrize(("num_damaged", "is_fixable"), [(1, True), (2, False)])
def test_damaged_checkpoints_are_a_storage_problem(
    store: str, tmp_path: Path, num_damaged: int, is_fixable: bool
) -> None:
    """`--fix` deletes them if an intact one remains."""
    run_id = leave_run(store, tmp_path)
    for path in write_checkpoints(find_folder(store, run_id))[-num_damaged:]:
        flip_byte(path)
    damaged, _ = judge(store, tmp_path)
    assert (damaged.state, damaged.exit_code) == (PROBLEM, 6)
    assert (damaged.run_id, damaged.is_fixable) == (run_id, is_fixable)
    assert "checksum mismatch" in damaged.text


def test_folder_in_use_is_not_inspected(store: str, tmp_path: Path) -> None:
    """Its process deletes old checkpoints, and adds records."""
    folder = find_folder(store, leave_run(store, tmp_path))
    append_records(folder, TAG)
    with folder.lock():
        assert inspect(store, tmp_path) == []


def test_folders_are_counted_by_their_use(store: str, tmp_path: Path) -> None:
    """Each use has its own note, with the place and the size."""
    client = mlflow.MlflowClient(store)
    unfinished = [leave_run(store, tmp_path) for _ in range(2)]
    write_checkpoints(find_folder(store, unfinished[0]))
    client.set_terminated(unfinished[0], "KILLED")
    client.set_terminated(leave_run(store, tmp_path), "FINISHED")
    gone = create_run_folder(tmp_path, {})
    write_owner(gone, store, "f" * 32, "0")
    finished, missing, others = sorted(item.text for item in judge(store, tmp_path))
    assert finished.startswith("1 of finished runs, 0.0 MB: ")
    assert missing == f"1 of no run in this store, 0.0 MB: {gone.path}"
    assert others.startswith("2 of unfinished runs, ")
    assert others.endswith(f" MB: {tmp_path}")


def test_folder_of_a_finished_run_is_done_once_all_is_sent(store: str, tmp_path: Path) -> None:
    """A process that is killed after the end of its run leaves it."""
    run_id = leave_run(store, tmp_path)
    folder = find_folder(store, run_id)
    append_records(folder, TAG)
    mlflow.MlflowClient(store).set_terminated(run_id, "FINISHED")
    assert [state.is_done for state in inspect(store, tmp_path)] == [False]
    shutil.rmtree(folder.journal)
    assert [state.is_done for state in inspect(store, tmp_path)] == [True]


def test_run_without_a_known_experiment_is_found(store: str, tmp_path: Path) -> None:
    """Its folder was created to resume it on this machine."""
    run_id = leave_run(store, tmp_path / "a")
    folder = create_run_folder(tmp_path / "b", {})
    folder.write_owner(run_id=run_id)
    assert [state.status for state in inspect(store, tmp_path / "b")] == ["RUNNING"]
