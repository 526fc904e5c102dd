"""`trialrun doctor` after a real training was killed; then `resume` finishes the run."""

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import SMALL, write_classes
from tests.runs.recovery.doctor.left_runs import (
    append_records,
    find_folder,
    flip_byte,
    leave_run,
    now_ms,
    read_run,
)
from tests.servers import copy_empty_store, run_mlflow_server
from tests.system.test_signals import start_forked
from trialrun.checkpoint.store import CheckpointStore
from trialrun.cli import run_cli
from trialrun.mlflow_client import connect_client
from trialrun.tracking.records import Record

pytestmark = pytest.mark.slow
NUM_EPOCHS = 4


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use empty folders in the places where training may have put its run folders."""
    for name in ("HOME", "XDG_STATE_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "TMPDIR"))


@pytest.fixture
def killed(store: str, tmp_path: Path, own_folders: None) -> str:
    """The id of a run whose process was killed after its second checkpoint."""
    data = write_classes(tmp_path / "data", {"a": 24, "b": 24})
    flags = [f"--train-data={data}", f"--model={SMALL}", f"--epochs={NUM_EPOCHS}"]
    command = [sys.executable, "-m", "trialrun", "train", *flags, "--patience=9", "--batch-size=4"]
    with start_forked(command, tmp_path, "Epoch 2/") as started:
        while len(list(tmp_path.glob("store/trialrun-runs/*/checkpoints/[0-9]"))) < 2:
            assert started.process.poll() is None
        started.process.send_signal(signal.SIGKILL)
        started.process.wait()
    (run,) = mlflow.search_runs(output_format="list", search_all_experiments=True)
    assert run.info.status == "RUNNING"
    return str(run.info.run_id)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the JSON result of a command."""
    capsys.readouterr()
    code = run_cli([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_killed_run_is_found_ended_and_resumed(
    store: str, killed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on from the checkpoint, which is not damaged by the repair."""
    code, values = call(capsys, "doctor")
    problems = {row["name"]: row for row in values["findings"] if row["state"] == "problem"}
    assert code == 5
    assert problems["runs"]["run_id"] == killed
    code, values = call(capsys, "doctor", "--fix")
    assert (code, values["is_well"]) == (0, True)
    assert read_run(store, killed).info.status == "KILLED"
    assert call(capsys, "doctor", "--fix")[1]["repairs"] == []
    code, result = call(capsys, "resume", killed)
    assert (code, result["run_id"], result["stopped_epoch"]) == (0, killed, NUM_EPOCHS)
    history = mlflow.MlflowClient(store).get_metric_history(killed, "valid_loss")
    assert sorted(item.step for item in history) == [1, 2, 3, 4]
    code, values = call(capsys, "doctor")
    assert code == 0
    assert "run folders" not in [row["name"] for row in values["findings"]]


def test_damaged_checkpoint_is_found_and_deleted(
    store: str, killed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is resumed from the older checkpoint."""
    checkpoints = CheckpointStore(find_folder(store, killed).checkpoints)
    older, newest = checkpoints.list_paths()
    flip_byte(newest)
    call(capsys, "doctor", "--fix")
    assert checkpoints.list_paths() == [older]
    code, result = call(capsys, "resume", killed)
    assert (code, result["stopped_epoch"]) == (0, NUM_EPOCHS)


@pytest.mark.parametrize("kind", ["server", "postgres"])
def test_runs_of_other_stores_are_found_and_ended(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """A server and PostgreSQL answer the same searches as SQLite."""
    with ExitStack() as stack:
        if kind == "server":
            copy_empty_store(request.getfixturevalue("initialised_store"), tmp_path)
            uri = f"http://{stack.enter_context(run_mlflow_server(tmp_path))}"
        else:
            uri = request.getfixturevalue("postgres")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        connect_client().create_experiment("tests", artifact_location=str(tmp_path / "artifacts"))
        root = tmp_path / "runs"
        run_id, sent_id = leave_run(uri, root), leave_run(uri, root)
        end = Record("end", {"status": "FINISHED", "end_time": now_ms()})
        append_records(find_folder(uri, sent_id), end)
        arguments = ["doctor", "--checkpoint-dir", str(root)]
        code, values = call(capsys, *arguments)
        problems = {(row["name"], row["run_id"]) for row in values["findings"] if row["exit_code"]}
        assert code == 5
        assert problems == {("runs", run_id), ("runs", sent_id), ("unsent records", sent_id)}
        assert call(capsys, *arguments, "--fix")[0] == 0
        assert read_run(uri, run_id).info.status == "KILLED"
        assert read_run(uri, sent_id).info.status == "FINISHED"
        assert call(capsys, *arguments, "--fix")[1]["repairs"] == []
