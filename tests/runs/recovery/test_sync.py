"""`trialrun sync` on runs whose records wait on disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.tracking.journaled import (
    AwayClient,
    make_options,
    open_journaled,
    read_runs,
)
from trialrun.checkpoint.run_folder import RunFolder
from trialrun.cli import run_cli as command
from trialrun.errors import TrackingError
from trialrun.runs.recovery.sync import (
    NOT_SENT,
    OTHER_STORE,
    RUNNING,
    SENT,
    check_all_sent,
    sync_runs,
)


def leave_unsent(store: str, root: Path) -> RunFolder:
    """Leave a finished run whose store went away after its start; return its folder."""
    options = make_options(root, flush_seconds=0)
    client = AwayClient(store)
    with open_journaled(client, options) as run:
        client.is_away = True
        run.log_metrics({"loss": 1}, 1)
        run.log_text("a.txt", "text")
    return options.folder


def test_sync_sends_what_remains_and_deletes_the_folder(store: str, tmp_path: Path) -> None:
    """The run ends with the status that its journal holds; a second call finds nothing."""
    folder = leave_unsent(store, tmp_path / "runs")
    assert read_runs(store)[0].info.status == "RUNNING"
    (row,) = sync_runs(str(tmp_path / "runs"))
    assert (row.outcome, row.num_unsent) == (SENT, 0)
    assert row.num_sent > 2
    (run,) = read_runs(store)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 1)
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/a.txt") == "text"
    assert not folder.path.exists()
    assert sync_runs(str(tmp_path / "runs")) == []


def test_sync_looks_where_training_puts_its_folders(store: str) -> None:
    """Without an option, that is beside a SQLite store."""
    database = Path(store.removeprefix("sqlite:///"))
    root = database.parent / "trialrun-runs"
    leave_unsent(store, root)
    rows = [row for row in sync_runs() if Path(row.folder).parent == root]  # it looks elsewhere too
    assert [row.outcome for row in rows] == [SENT]


def test_sync_creates_an_offline_run_once(store: str, tmp_path: Path) -> None:
    """A `sync` that is killed after it created the run finds that run again."""
    options = make_options(tmp_path / "runs", offline=True)
    with open_journaled(None, options) as run:
        run.log_metrics({"loss": 1}, 1)
    copy = tmp_path / "copy" / options.folder.path.name
    copy.parent.mkdir()
    shutil.copytree(options.folder.path, copy)
    for root in ("runs", "copy"):
        assert [row.outcome for row in sync_runs(str(tmp_path / root))] == [SENT]
    (stored,) = read_runs(store)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "journaled")
    history = mlflow.MlflowClient(store).get_metric_history(stored.info.run_id, "loss")
    assert len(history) == 1


def test_run_in_progress_is_left_alone(store: str, tmp_path: Path) -> None:
    """Its own process sends its records."""
    options = make_options(tmp_path / "runs")
    with open_journaled(mlflow.MlflowClient(store), options) as run:
        (row,) = sync_runs(str(tmp_path / "runs"))
        assert (row.run_id, row.outcome) == (run.run_id, RUNNING)
        check_all_sent([row])


def test_journal_of_another_store_is_left_alone(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names that store."""
    leave_unsent(store, tmp_path / "runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    (row,) = sync_runs(str(tmp_path / "runs"))
    assert row.outcome == OTHER_STORE
    assert store in row.reason
    check_all_sent([row])


def test_damaged_journal_is_reported_and_others_are_sent(store: str, tmp_path: Path) -> None:
    """The exit code is 5, and the damaged one stays where it is."""
    damaged = leave_unsent(store, tmp_path / "runs")
    leave_unsent(store, tmp_path / "runs")
    path = damaged.journal / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"#" + content[21:])
    rows = {row.folder: row for row in sync_runs(str(tmp_path / "runs"))}
    assert sorted(row.outcome for row in rows.values()) == [NOT_SENT, SENT]
    assert "record 1 " in rows[str(damaged.path)].reason
    with pytest.raises(TrackingError, match="damaged"):
        check_all_sent(list(rows.values()))
    assert path.exists()


def test_command_prints_rows_and_exits_with_5_if_records_remain(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deleted run refuses its records: they remain, with the reason."""
    folder = leave_unsent(store, tmp_path / "runs")
    client = mlflow.MlflowClient(store)
    client.delete_run(str(folder.run_id))
    arguments = ["sync", "--checkpoint-dir", str(tmp_path / "runs")]
    assert command(arguments) == 5
    out, error = capsys.readouterr()
    assert "not sent" in out
    assert "must be in the 'active' state" in error
    client.restore_run(str(folder.run_id))
    assert command([*arguments, "--json"]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [row["outcome"] for row in values["runs"]] == ["sent"]
