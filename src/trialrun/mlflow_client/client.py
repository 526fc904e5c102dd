"""The MLflow client: connection, settings, downloads and experiments."""

import atexit
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from trialrun.errors import TrackingError, TrialrunError, summarize_error
from trialrun.files import translate_storage_errors
from trialrun.mlflow_client.errors import (
    redact_credentials,
    suggest_package,
    suggest_remedy,
    translate_tracking_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

# URIs that MLflow downloads; anything else is a path.
URI_SCHEMES = (
    "runs:/",
    "models:/",
    "mlflow-artifacts:/",
    "dbfs:/",
    "file:",
    "ftp://",
    "gs://",
    "hdfs://",
    "http://",
    "https://",
    "s3://",
    "sftp://",
    "wasbs://",
    "abfss://",
)

_SQLITE = "sqlite:///"
_MODELS = "models:/"
_PROBE_SECONDS = 10
_SETTINGS = {
    # With MLflow's default of seven retries a call to a dead server fails after four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # MLflow's default is 120. A server without free database connections answers after 30 s.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "40",
    # MLflow would print the URL of the run to stdout, with the password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LEVEL_VARIABLE = "MLFLOW_LOGGING_LEVEL"  # MLflow reads it when it is imported
_LOGGER = "mlflow"
_DATABASE_LOGGER = "mlflow.store.db.utils"  # logs a traceback before it raises
_POSTGRES_LOGGER = "psycopg"
_PIPELINE_MESSAGE = "error ignored terminating <psycopg.Pipeline"
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "valid_accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}
_NO_EXPERIMENT = "the active experiment cannot be opened"


@dataclass(frozen=True, slots=True)
class _CallerSettings:
    """The MLflow settings of the calling process, and whether it has imported MLflow."""

    environment: dict[str, str | None]
    has_imported: bool
    level: int
    database_level: int

    @classmethod
    def read(cls) -> "_CallerSettings":
        """Return the present settings."""
        return cls(
            {name: os.environ.get(name) for name in (*_SETTINGS, _LEVEL_VARIABLE)},
            _LOGGER in sys.modules,
            logging.getLogger(_LOGGER).level,
            logging.getLogger(_DATABASE_LOGGER).level,
        )

    def apply_ours(self) -> None:
        """Replace the settings by those of trialrun; a log level that the caller has set stays."""
        for name, text in _SETTINGS.items():
            os.environ.setdefault(name, text)
        is_default = self.level == logging.INFO or not self.has_imported
        if is_default and self.environment[_LEVEL_VARIABLE] is None:
            os.environ[_LEVEL_VARIABLE] = "WARNING"
            logging.getLogger(_LOGGER).setLevel(logging.WARNING)
            logging.getLogger(_DATABASE_LOGGER).setLevel(logging.CRITICAL)

    def restore(self) -> None:
        """Restore the settings; MLflow, if imported since, gets its own default log level."""
        logging.getLogger(_POSTGRES_LOGGER).removeFilter(_is_no_pipeline_message)
        for name, text in self.environment.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        level: int | str = self.level
        if _LOGGER in sys.modules and not self.has_imported:
            level = (os.environ.get(_LEVEL_VARIABLE) or "INFO").upper()
        logging.getLogger(_LOGGER).setLevel(level)
        logging.getLogger(_DATABASE_LOGGER).setLevel(self.database_level)


_settings_lock = threading.Lock()
# One item per running call. The first one has the settings of the process.
_callers: list[_CallerSettings] = []


@contextmanager
def restore_mlflow_settings() -> Iterator[None]:
    """Silence MLflow's messages and progress bars in the block, then restore its settings.

    If several threads are in such a block, the last one to leave it restores the settings.
    """
    with _settings_lock:
        _callers.append(_callers[0] if _callers else _CallerSettings.read())
        _callers[0].apply_ours()
    try:
        yield
    finally:
        with _settings_lock:
            caller = _callers.pop()
            if not _callers:
                caller.restore()


def _is_no_pipeline_message(record: logging.LogRecord) -> bool:
    """Whether a record of psycopg's log is to be kept.

    After a failed statement, psycopg logs a second error of the statements that were sent with it.
    The first one is raised, and handled or reported.
    """
    return not record.getMessage().startswith(_PIPELINE_MESSAGE)


def connect_client() -> "MlflowClient":
    """Return a client of the store in MLFLOW_TRACKING_URI; MLflow's default is ./mlflow.db.

    Raises:
        TrackingError: The server does not answer, or the database cannot be used.
    """
    for name, text in _SETTINGS.items():
        os.environ.setdefault(name, text)
    logging.getLogger(_POSTGRES_LOGGER).addFilter(_is_no_pipeline_message)
    import mlflow

    with translate_tracking_errors("the tracking store cannot be opened"):
        uri = mlflow.get_tracking_uri()
        if uri.startswith(_SQLITE):
            _prepare_sqlite(Path(uri.removeprefix(_SQLITE)))
        elif urlsplit(uri).scheme in ("http", "https"):
            _probe_server(uri)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    return client


def _probe_server(uri: str) -> None:
    """Check that the server answers: MLflow itself would wait for minutes."""
    import requests
    from mlflow.utils.credentials import get_default_host_creds

    settings = get_default_host_creds(uri)
    requests.get(
        uri.rstrip("/") + "/health",
        timeout=_PROBE_SECONDS,
        verify=settings.server_cert_path or not settings.ignore_tls_verification,
        cert=settings.client_cert_path,
    )


def _prepare_sqlite(path: Path) -> None:
    """Create the database under a lock: concurrent creation by several processes corrupts it."""
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
                # Lets readers and a writer work at the same time. The file stores this mode.
                database.execute("PRAGMA journal_mode=WAL")
    except OSError as error:
        raise TrackingError(
            f"{path} cannot be created: {error.strerror or error}",
            "Set MLFLOW_TRACKING_URI to a file in a writable folder.",
        ) from error


def download_artifact(uri: str) -> Path:
    """Download `uri` and return the local path; the copy is deleted when the process ends.

    A model with local files is not copied.

    Raises:
        TrackingError: MLflow cannot download `uri`.
        StorageError: The temporary folder cannot be created.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if _is_local(uri):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
        folder = _create_exit_folder()
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except ImportError as error:
        raise _download_error(uri, error, suggest_package(error)) from error
    except (MlflowException, OSError) as error:
        hint = suggest_remedy(str(error), "Check the URI and MLFLOW_TRACKING_URI.")
        raise _download_error(uri, error, hint) from error


def _download_error(uri: str, error: Exception, hint: str) -> TrackingError:
    message = f"{uri} cannot be downloaded: {summarize_error(error)}"
    return TrackingError(redact_credentials(message), hint)


def _is_local(uri: str) -> bool:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if not uri.startswith(_MODELS):
        return False
    return isinstance(getattr(get_artifact_repository(uri), "repo", None), LocalArtifactRepository)


def _create_exit_folder() -> Path:
    with translate_storage_errors(Path("a temporary folder")):
        folder = Path(tempfile.mkdtemp(prefix="trialrun-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def find_experiment_id(client: "MlflowClient", name: str | None) -> str:
    """Return the id of the experiment `name`, which is created if it does not exist.

    None is MLflow's active experiment: that of `mlflow.set_experiment`, else
    MLFLOW_EXPERIMENT_NAME (created if it does not exist) or MLFLOW_EXPERIMENT_ID, else Default.

    Raises:
        TrackingError: The experiment was deleted, or the store fails.
    """
    with translate_tracking_errors(
        f"experiment {name} cannot be opened" if name else _NO_EXPERIMENT
    ):
        experiment = client.get_experiment(_find_experiment(client, name))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"experiment {experiment.name} was deleted", "Restore it, or choose another experiment."
        )
    return str(experiment.experiment_id)


def _find_experiment(client: "MlflowClient", name: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return _find_or_create_experiment(client, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _find_or_create_experiment(client, name)  # another process has created it since


def _find_or_create_experiment(client: "MlflowClient", name: str | None) -> str:
    if name is None:
        from mlflow.tracking.fluent import _get_experiment_id

        return str(_get_experiment_id())
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def describe_experiment(client: "MlflowClient", experiment_id: str) -> None:
    """Set the tags that MLflow's experiment page uses for training runs, unless they are set.

    Errors are ignored: MLflow rejects a tag that two processes set at once, and the page is not
    worth failing a run for.
    """
    with suppress(TrialrunError), translate_tracking_errors("the experiment cannot be described"):
        tags = client.get_experiment(experiment_id).tags
        for name, value in _EXPERIMENT_TAGS.items():
            if name not in tags:
                client.set_experiment_tag(experiment_id, name, value)
