"""The MLflow client: connection, settings, downloads, experiments and translated errors."""

import atexit
import logging
import os
import re
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

from trialrun.errors import StorageError, TrackingError, TrialrunError, summarize_error
from trialrun.files import as_storage_error, translate_storage_errors

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
    # MLflow would print the URL of the run to stdout, with the password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LEVEL_VARIABLE = "MLFLOW_LOGGING_LEVEL"  # MLflow reads it when it is imported
_LOGGER = "mlflow"
_DATABASE_LOGGER = "mlflow.store.db.utils"  # logs a traceback before it raises
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "valid_accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#]*@")
# Modules that MLflow imports, and their packages where the names differ.
_PACKAGES = {
    "botocore": "boto3",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
_NO_EXPERIMENT = "the active experiment cannot be opened"
_CHECK_SERVER = "Check MLFLOW_TRACKING_URI and that its server is up."
# Patterns in the messages of MLflow and its databases, and hints for the user.
_REMEDIES = (
    (
        r"attempt to write a readonly database|unable to open database file",
        "Make the database file and its folder writable.",
    ),
    (
        r"database is locked",
        "Another process has locked the database: stop it, or use an MLflow server.",
    ),
    (
        r"out-of-date database schema",
        "Upgrade the database: `mlflow db upgrade URI`.",
    ),
    (
        r"filesystem tracking backend",
        "Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db: MLflow no longer writes file stores.",
    ),
    (
        r"Not a proper runs:/ URI",
        "Write runs:/RUN_ID/model.",
    ),
    (
        r"Logged model with ID",
        "Name a version: models:/NAME/1 or models:/NAME@champion.",
    ),
    (
        r"\bnot found\b|does not exist|Invalid value .* for parameter 'run_id'",
        "`mlflow ui` lists runs and models; MLFLOW_TRACKING_URI sets the store that is searched.",
    ),
    (
        r"error code 401\b|UNAUTHENTICATED|not authenticated",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    ),
)


@contextmanager
def translate_tracking_errors(failure: str) -> Iterator[None]:
    """Translate errors of MLflow, its database, the network and the disk.

    `failure` says what failed, for example "the run cannot be opened".

    Raises:
        StorageError: The disk is full, or a file cannot be read or written.
        TrackingError: Any other error.
    """
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
        reason = _find_reason(error)
        if "disk is full" in reason:  # SQLite's message
            raise StorageError(
                f"{failure}: {reason}", "Free some space for the database."
            ) from error
        raise TrackingError(f"{failure}: {reason}", _suggest_remedy(str(error))) from error
    except ConnectionError as error:
        raise TrackingError(
            f"{failure}: {_find_reason(error)}", _suggest_remedy(str(error))
        ) from error
    except ImportError as error:
        raise TrackingError(f"{failure}: {_find_reason(error)}", _suggest_package(error)) from error
    except OSError as error:  # without a server, artifacts are local files
        raise as_storage_error(failure, error) from error


def _find_reason(error: Exception) -> str:
    """Return the line of an error with its cause; SQLAlchemy may put another line first."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result")]
    return redact_credentials((lines or [type(error).__name__])[0])


def redact_credentials(text: str) -> str:
    """Return `text` with user and password removed from its URLs."""
    return _CREDENTIALS.sub("", text)


def _suggest_remedy(text: str, default: str = _CHECK_SERVER) -> str:
    remedies = (remedy for pattern, remedy in _REMEDIES if re.search(pattern, text))
    return next(remedies, default)


def _suggest_package(error: ImportError) -> str:
    module = (error.name or "that is missing").partition(".")[0]
    return f"Install the package {_PACKAGES.get(module, module)}: the URI of the store needs it."


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


def connect_client() -> "MlflowClient":
    """Return a client of the store in MLFLOW_TRACKING_URI; MLflow's default is ./mlflow.db.

    Raises:
        TrackingError: The server does not answer, or the database cannot be used.
    """
    for name, text in _SETTINGS.items():
        os.environ.setdefault(name, text)
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
        raise _download_error(uri, error, _suggest_package(error)) from error
    except (MlflowException, OSError) as error:
        hint = _suggest_remedy(str(error), "Check the URI and MLFLOW_TRACKING_URI.")
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
