"""The tracking store: found, made ready once, and its complaints put into our words."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from trialrun.errors import StorageError, TrackingError, TrialrunError
from trialrun.files import as_storage_error

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_PROBE_SECONDS = 10
# MLflow's own seven retries hold one call for four minutes before a dead server is told.
_HTTP_RETRIES = "2"
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "valid_accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}


@contextmanager
def tracking_errors(doing: str) -> Iterator[None]:
    """Translate what MLflow, its database, the network or a disk raise while `doing` something."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (
        MlflowException,
        sqlalchemy.exc.SQLAlchemyError,
        requests.RequestException,
        sqlite3.Error,
    ) as error:
        reason = _reason(error)
        if "disk is full" in reason:  # SQLite's words
            raise StorageError(f"{doing}: {reason}", "Free some space for the database.") from error
        raise TrackingError(f"{doing}: {reason}", _remedy(str(error))) from error
    except ConnectionError as error:
        raise TrackingError(f"{doing}: {error}", _remedy(str(error))) from error
    except OSError as error:  # artifacts are files where there is no server
        raise as_storage_error(doing, error) from error


def _reason(error: Exception) -> str:
    """The line of an error that says what happened; SQLAlchemy puts when it happened first."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result")]
    return (lines or [type(error).__name__])[0]


def _remedy(text: str) -> str:
    if "readonly" in text or "unable to open" in text or "read-only" in text:
        return "Make the database file and its folder writable."
    if "locked" in text:
        return "Another process holds the database: end it, or use an MLflow server."
    if "out-of-date" in text or "schema" in text:
        return "Bring the database up to date: `mlflow db upgrade URI`."
    if "mlruns" in text or "file store" in text.lower() or "filesystem" in text.lower():
        return "Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db: MLflow no longer writes file stores."
    return "Check MLFLOW_TRACKING_URI and that its server is up."


def connect() -> "MlflowClient":
    """A client of the store that MLFLOW_TRACKING_URI names (MLflow's default: mlflow.db here).

    Raises:
        TrackingError: The server does not answer, or the database cannot be used.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _HTTP_RETRIES)
    import mlflow

    with tracking_errors("the tracking store cannot be opened"):
        uri = mlflow.get_tracking_uri()
        if uri.startswith(_SQLITE):
            _prepare_sqlite(Path(uri.removeprefix(_SQLITE)))
        elif urlsplit(uri).scheme in ("http", "https"):
            _probe(uri)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    return client


def _probe(uri: str) -> None:
    import requests

    requests.get(uri.rstrip("/") + "/health", timeout=_PROBE_SECONDS)


def _prepare_sqlite(path: Path) -> None:
    """Make the database in one process: several that start on a missing file spoil it."""
    if path.exists() and path.stat().st_size:
        return
    import mlflow

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if path.exists() and path.stat().st_size:
                return
            mlflow.MlflowClient().search_experiments(max_results=1)
            with closing(sqlite3.connect(path)) as database:
                # Readers and a writer no longer wait for each other; the file remembers it.
                database.execute("PRAGMA journal_mode=WAL")
    except OSError as error:
        raise TrackingError(
            f"{path} cannot be made: {error.strerror or error}",
            "Set MLFLOW_TRACKING_URI to a folder you may write to.",
        ) from error


def experiment_id(client: "MlflowClient", name: str | None) -> str:
    """The experiment called `name`, made if need be; for None what MLflow's environment says.

    Raises:
        TrackingError: It was deleted, or the store fails.
    """
    from mlflow.exceptions import MlflowException

    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if name is None:
        return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
    with tracking_errors(f"experiment {name} cannot be opened"):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException:  # another process made it meanwhile
                found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {name} was deleted", "Restore it, or choose another experiment."
        )
    return str(found.experiment_id)


def describe_experiment(client: "MlflowClient", experiment_id: str) -> None:
    """Set up an experiment's page for training runs, where nobody has set it up yet.

    It is decoration: MLflow refuses a tag that two processes set at once, and no run ends for that.
    """
    with suppress(TrialrunError), tracking_errors("the experiment cannot be described"):
        tags = client.get_experiment(experiment_id).tags
        for name, value in _EXPERIMENT_TAGS.items():
            if name not in tags:
                client.set_experiment_tag(experiment_id, name, value)
