"""The thread that sends records, and what it takes for an outage."""

import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import sqlalchemy.exc
from mlflow.protos.databricks_pb2 import REQUEST_LIMIT_EXCEEDED

from tests.tracking.journaled import AwayClient, make_options, open_journaled, read_runs
from trialrun.errors import TrackingError
from trialrun.mlflow_client import is_outage
from trialrun.tracking import HEARTBEAT_TAG, sender


def test_records_of_an_outage_are_sent_in_batches_and_in_order(store: str, tmp_path: Path) -> None:
    """A hundred epochs take a few calls; the last of several equal tags remains."""
    options = make_options(tmp_path / "runs")
    client = AwayClient(store)
    with open_journaled(client, options) as run:
        client.is_away = True
        for step in range(100):
            run.log_metrics({"loss": step, "accuracy": 1}, step)
            run.set_tags({"epoch": str(step)})
        run.log_params({f"param{number}": "a" for number in range(120)})
        client.calls.clear()
        client.is_away = False
        run.flush()
        assert client.calls["log_batch"] < 12
    (stored,) = read_runs(store)
    history = mlflow.MlflowClient(store).get_metric_history(run.run_id, "loss")
    assert [item.value for item in history] == list(range(100))
    assert stored.data.tags["epoch"] == "99"
    assert len(stored.data.params) == 120


def test_heartbeat_is_refreshed(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tag changes while the run is open."""
    monkeypatch.setattr(sender, "HEARTBEAT_SECONDS", 0.05)
    client = mlflow.MlflowClient(store)
    with open_journaled(client, make_options(tmp_path / "runs")) as run:
        first = client.get_run(run.run_id).data.tags[HEARTBEAT_TAG]
        deadline = time.monotonic() + 20
        while client.get_run(run.run_id).data.tags[HEARTBEAT_TAG] == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


class HangingClient(AwayClient):
    """A client whose calls hang while `is_hanging`."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.released = threading.Event()
        self.released.set()

    def log_batch(self, *arguments: Any, **options: Any) -> Any:
        """Wait until the client is released."""
        self.released.wait(60)
        return super().log_batch(*arguments, **options)


@pytest.mark.slow
def test_call_that_hangs_does_not_hold_the_run_up(store: str, tmp_path: Path) -> None:
    """Logging goes on; the end of a killed run waits for seconds only."""
    client = HangingClient(store)
    options = make_options(tmp_path / "runs")
    started = 0.0
    with suppress(KeyboardInterrupt), open_journaled(client, options) as run:
        client.released.clear()
        started = time.monotonic()
        for step in range(100):
            run.log_metrics({"loss": 1}, step)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 6
    client.released.set()


def _caused(cause: Exception) -> TrackingError:
    error = TrackingError("metrics cannot be logged", "")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "cause",
    [
        requests.ConnectionError("refused"),
        requests.ReadTimeout("30 s"),
        ConnectionResetError("reset"),
        mlflow.MlflowException(
            "API request to http://a failed with exception Max retries exceeded"
        ),
        mlflow.MlflowException("API request failed with error code 502 != 200"),
        mlflow.MlflowException("too many", error_code=REQUEST_LIMIT_EXCEEDED),
        mlflow.MlflowException("(sqlite3.OperationalError) database is locked"),
        mlflow.MlflowException("QueuePool limit of size 5 overflow 10 reached"),
        sqlalchemy.exc.OperationalError("a", None, Exception("server closed the connection")),
    ],
)
def test_errors_that_pass_by_themselves(cause: Exception) -> None:
    """They are retried, also if they were translated."""
    assert is_outage(cause)
    assert is_outage(_caused(cause))


@pytest.mark.parametrize(
    "cause",
    [
        mlflow.MlflowException("The run abc must be in the 'active' state", error_code=1000),
        mlflow.MlflowException("API request failed with error code 403 != 200"),
        mlflow.MlflowException("(sqlite3.OperationalError) database or disk is full"),
        mlflow.MlflowException("(sqlite3.OperationalError) attempt to write a readonly database"),
        sqlalchemy.exc.OperationalError("a", None, sqlite3.OperationalError("no such table: runs")),
        requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"),
        PermissionError(13, "Permission denied"),
        OSError(28, "No space left on device"),
        ValueError("a bug"),
    ],
)
def test_refusals_are_no_outages(cause: Exception) -> None:
    """A person has to do something."""
    assert not is_outage(cause)
    assert not is_outage(_caused(cause))
