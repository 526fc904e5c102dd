"""Runs with a journal: what they store, and what remains on disk."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from tests.tracking.journaled import (
    AwayClient,
    is_empty,
    make_options,
    open_journaled,
    read_runs,
)
from trialrun.checkpoint.run_folder import FOLDER_TAG
from trialrun.errors import RunInterruptedError, StorageError, TrackingError
from trialrun.tracking import TrackedRun
from trialrun.tracking.writers import JournalWriter


def log_something(run: TrackedRun) -> None:
    """Write one record of most kinds."""
    run.log_params({"epochs": "2"})
    for step in (1, 2):
        run.log_metrics({"loss": 1 / step}, step)
    run.set_tags({"stop_reason": "completed"})
    run.log_text("folder/events.jsonl", "é\r\n")


def check_something(store: str) -> None:
    """Check that the only run stores what `log_something` writes."""
    client = mlflow.MlflowClient(store)
    (run,) = read_runs(store)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "journaled")
    assert run.data.params == {"epochs": "2"}
    assert (run.data.tags["own"], run.data.tags["stop_reason"]) == ("tag", "completed")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    uri = f"runs:/{run.info.run_id}/folder/events.jsonl"
    assert Path(mlflow.artifacts.download_artifacts(uri)).read_bytes() == "é\r\n".encode()


def test_finished_run_is_stored_and_its_journal_deleted(store: str, tmp_path: Path) -> None:
    """All records arrive; nothing waits on disk."""
    options = make_options(tmp_path / "runs")
    with open_journaled(mlflow.MlflowClient(store), options) as run:
        log_something(run)
    check_something(store)
    assert run.is_drained
    assert is_empty(options.folder)


def test_end_of_a_run_deletes_what_a_killed_upload_left(store: str, tmp_path: Path) -> None:
    """MLflow's staging file, from the upload of a killed process, is no longer among the artifacts.

    The staging file is created by MLflow itself, so that a new name of it is noticed.
    """
    client = mlflow.MlflowClient(store)
    with open_journaled(client, make_options(tmp_path / "runs")) as run:
        (started,) = read_runs(store)
        repository = LocalArtifactRepository(started.info.artifact_uri)
        descriptor, staged, _ = repository._create_staging_artifact("events.jsonl", "folder")
        os.close(descriptor)
        run.log_text("folder/events.jsonl", "{}")
    assert [path.name for path in Path(staged).parent.iterdir()] == ["events.jsonl"]


def test_run_names_its_folder_and_process(store: str, tmp_path: Path) -> None:
    """The run has them as tags, and the folder names the run and its store, without a password."""
    options = make_options(tmp_path / "runs")
    with open_journaled(mlflow.MlflowClient(store), options) as run:
        pass
    tags = read_runs(store)[0].data.tags
    assert tags[FOLDER_TAG] == str(options.folder.path)
    heartbeat = json.loads(tags["trialrun.heartbeat"])
    assert heartbeat["pid"] == os.getpid()
    assert time.time() - heartbeat["time"] < 60
    owner = options.folder.read_owner()
    assert (owner["run_id"], owner["tracking_uri"]) == (run.run_id, store)


def test_folder_is_locked_while_the_run_is_open(store: str, tmp_path: Path) -> None:
    """No second process works on the run."""
    options = make_options(tmp_path / "runs")
    with open_journaled(mlflow.MlflowClient(store), options) as run:
        assert options.folder.is_locked()
        with (
            pytest.raises(StorageError, match="still working"),
            open_journaled(mlflow.MlflowClient(store), options, run.run_id),
        ):
            pass
    assert not options.folder.is_locked()


def test_unsent_records_cost_a_note_and_go_first_when_opened_again(
    store: str, tmp_path: Path
) -> None:
    """A run whose store stays away ends without an error; another process sends the rest."""
    notes: list[str] = []
    options = make_options(tmp_path / "runs", flush_seconds=0.2, note=notes.append)
    client = AwayClient(store)
    with open_journaled(client, options) as run:
        client.is_away = True
        run.log_metrics({"loss": 1}, 1)
    assert not run.is_drained
    assert "trialrun sync" in notes[0]
    with open_journaled(mlflow.MlflowClient(store), options, run.run_id) as again:
        log_something(again)
    check_something(store)
    assert is_empty(options.folder)


def test_metrics_that_were_logged_before_keep_their_first_values(
    store: str, tmp_path: Path
) -> None:
    """A resumed run repeats an epoch and gets the first timestamp; new names are logged."""
    options = make_options(tmp_path / "runs")
    client = mlflow.MlflowClient(store)
    with suppress(RunInterruptedError), open_journaled(client, options) as run:
        first = run.log_metrics({"loss": 1}, 1)
        raise RunInterruptedError("SIGTERM")
    with open_journaled(client, options, run.run_id) as again:
        assert again.log_metrics({"loss": 2, "accuracy": 0.5}, 1) == first
    (stored,) = client.get_metric_history(run.run_id, "loss")
    assert stored.value == 1
    assert client.get_run(run.run_id).data.metrics["accuracy"] == 0.5


def test_known_metrics_are_not_logged(store: str, tmp_path: Path) -> None:
    """On a machine without the journal, the store says which values are there."""
    options = make_options(tmp_path / "runs", known_metrics={("loss", 1): 77})
    client = mlflow.MlflowClient(store)
    with open_journaled(client, options) as run:
        assert run.log_metrics({"loss": 1}, 1) == 77
        run.log_metrics({"loss": 2}, 2)
    assert [item.step for item in client.get_metric_history(run.run_id, "loss")] == [2]


def test_refusal_is_raised_by_the_next_call(store: str, tmp_path: Path) -> None:
    """The run fails with the error of the store; all that was not refused is stored."""
    options = make_options(tmp_path / "runs")
    client = AwayClient(store)
    client.refused = {"log_artifact"}

    def log_refused() -> None:
        with open_journaled(client, options) as run:
            run.log_text("a.txt", "a")
            run.log_metrics({"loss": 1}, 1)
            _wait_for(client, "log_artifact")
            run.log_metrics({"loss": 1}, 2)

    with pytest.raises(TrackingError, match=r"a\.txt cannot be stored: log_artifact is refused"):
        log_refused()
    (stored,) = read_runs(store)
    assert (stored.info.status, stored.data.metrics["loss"]) == ("FAILED", 1)
    assert stored.data.tags["error"].startswith("TrackingError: a.txt")
    assert options.folder.journal.exists()


def test_refusal_of_the_last_record_fails_the_run(store: str, tmp_path: Path) -> None:
    """A run whose artifact was refused never becomes FINISHED."""
    options = make_options(tmp_path / "runs")
    client = AwayClient(store)
    client.refused = {"log_artifact"}
    with (
        pytest.raises(TrackingError, match="is refused"),
        open_journaled(client, options) as run,
    ):
        run.log_text("a.txt", "a")
    assert read_runs(store)[0].info.status == "FAILED"


def _wait_for(client: AwayClient, method: str) -> None:
    deadline = time.monotonic() + 30
    while method not in client.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)


@pytest.mark.parametrize(
    ("error", "status", "seconds"),
    [(RunInterruptedError("SIGTERM"), "KILLED", 3), (ValueError("no"), "FAILED", 10)],
)
@pytest.mark.slow
def test_run_ends_within_seconds_while_the_store_is_away(
    store: str, tmp_path: Path, error: BaseException, status: str, seconds: float
) -> None:
    """A signal or an error does not wait for the store; the status is sent later."""
    options = make_options(tmp_path / "runs")
    client = AwayClient(store)
    started = 0.0
    with suppress(type(error)), open_journaled(client, options) as run:
        client.is_away = True
        started = time.monotonic()
        raise error
    assert time.monotonic() - started < seconds + 2
    with (
        pytest.raises(type(error)),
        open_journaled(mlflow.MlflowClient(store), options, run.run_id),
    ):
        raise error
    assert read_runs(store)[0].info.status == status


def test_run_that_cannot_be_created_leaves_no_folder(store: str, tmp_path: Path) -> None:
    """Nothing was recorded, so nothing remains."""
    options = make_options(tmp_path / "runs")
    client = AwayClient(store)
    client.refused = {"create_run"}
    with (
        pytest.raises(TrackingError, match="the run cannot be opened"),
        open_journaled(client, options),
    ):
        pass
    assert list((tmp_path / "runs").iterdir()) == []


def test_offline_run_exists_only_on_disk(store: str, tmp_path: Path) -> None:
    """Its id is the folder's name; the store has nothing."""
    notes: list[str] = []
    options = make_options(tmp_path / "runs", offline=True, note=notes.append)
    with open_journaled(None, options) as run:
        log_something(run)
    assert run.run_id == options.folder.path.name
    assert "trialrun sync" in notes[0]
    assert read_runs(store) == []


def test_offline_run_that_is_opened_online_is_created_first(store: str, tmp_path: Path) -> None:
    """Resuming needs no `sync` before."""
    options = make_options(tmp_path / "runs", offline=True)
    with suppress(RunInterruptedError), open_journaled(None, options) as run:
        log_something(run)
        raise RunInterruptedError("SIGTERM")
    with open_journaled(mlflow.MlflowClient(store), options, run.run_id) as again:
        log_something(again)
    check_something(store)
    assert again.run_id != run.run_id


def test_appending_takes_less_than_a_millisecond(store: str, tmp_path: Path) -> None:
    """The training thread does not notice the journal."""
    options = make_options(tmp_path / "runs", flush_seconds=0)
    client = AwayClient(store)
    seconds = []
    with open_journaled(client, options) as run:
        client.is_away = True
        for step in range(200):
            started = time.perf_counter()
            run.log_metrics({f"metric_{number}": 0.5 for number in range(12)}, step)
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[100] < 0.001


@pytest.mark.slow
def test_end_is_stored_although_the_journal_is_full(store: str, tmp_path: Path) -> None:
    """The disk of the journal takes no record any more: status and error go to the store alone."""
    options = make_options(tmp_path / "runs")

    def fill_disk_and_log() -> None:
        with open_journaled(mlflow.MlflowClient(store), options) as run:
            assert isinstance(run.writer, JournalWriter)
            full = os.open("/dev/full", os.O_WRONLY)  # each write fails: no space left
            os.dup2(full, run.writer.journal._descriptor)
            os.close(full)
            run.log_metrics({"loss": 1}, 1)

    with pytest.raises(StorageError):
        fill_disk_and_log()
    (stored,) = read_runs(store)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["error"].startswith("StorageError")
