"""The tracking store: found, made ready once, and its complaints put into our words."""

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

# What MLflow downloads; everything else is a path.
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
    # MLflow's own seven retries hold one call for four minutes before a dead server is told.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # It would print where a run is to be seen among our results, with the password in the address.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LEVEL_VARIABLE = "MLFLOW_LOGGING_LEVEL"  # MLflow reads it when it is imported
_LOGGER = "mlflow"
_DATABASE_LOGGER = "mlflow.store.db.utils"  # logs a traceback of what it then raises
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "valid_accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#]*@")
# Packages that have another name than the module in them that MLflow imports.
_PACKAGES = {
    "botocore": "boto3",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
_NO_EXPERIMENT = "the active experiment cannot be opened"
_CHECK_SERVER = "Check MLFLOW_TRACKING_URI and that its server is up."
# What MLflow and its databases say, and what to do about it.
_REMEDIES = (
    (
        r"attempt to write a readonly database|unable to open database file",
        "Make the database file and its folder writable.",
    ),
    (
        r"database is locked",
        "Another process holds the database: end it, or use an MLflow server.",
    ),
    (
        r"out-of-date database schema",
        "Bring the database up to date: `mlflow db upgrade URI`.",
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
        "Name a version: models:/NAME/1, or models:/NAME@champion.",
    ),
    (
        r"\bnot found\b|does not exist|Invalid value .* for parameter 'run_id'",
        "`mlflow ui` shows what there is; MLFLOW_TRACKING_URI says where it is looked for.",
    ),
    (
        r"error code 401\b|UNAUTHENTICATED|not authenticated",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
    ),
)


@contextmanager
def translate_tracking_errors(doing: str) -> Iterator[None]:
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
        reason = _find_reason(error)
        if "disk is full" in reason:  # SQLite's words
            raise StorageError(f"{doing}: {reason}", "Free some space for the database.") from error
        raise TrackingError(f"{doing}: {reason}", _suggest_remedy(str(error))) from error
    except ConnectionError as error:
        raise TrackingError(
            f"{doing}: {_find_reason(error)}", _suggest_remedy(str(error))
        ) from error
    except ImportError as error:
        raise TrackingError(f"{doing}: {_find_reason(error)}", _missing(error)) from error
    except OSError as error:  # artifacts are files where there is no server
        raise as_storage_error(doing, error) from error


def _find_reason(error: Exception) -> str:
    """The line of an error that says what happened; SQLAlchemy puts when it happened first."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result")]
    return redact_credentials((lines or [type(error).__name__])[0])


def redact_credentials(text: str) -> str:
    """Addresses without the user and password that may stand in them."""
    return _CREDENTIALS.sub("", text)


def _suggest_remedy(text: str, otherwise: str = _CHECK_SERVER) -> str:
    found = (remedy for pattern, remedy in _REMEDIES if re.search(pattern, text))
    return next(found, otherwise)


def _missing(error: ImportError) -> str:
    module = (error.name or "that is missing").partition(".")[0]
    return f"Install the package {_PACKAGES.get(module, module)}: the store's address needs it."


@dataclass(frozen=True, slots=True)
class _CallerSettings:
    """What a caller's process has set for MLflow, and whether it has loaded it."""

    environment: dict[str, str | None]
    has_loaded: bool
    level: int
    database_level: int

    @classmethod
    def read(cls) -> "_CallerSettings":
        """As they are now."""
        return cls(
            {name: os.environ.get(name) for name in (*_SETTINGS, _LEVEL_VARIABLE)},
            _LOGGER in sys.modules,
            logging.getLogger(_LOGGER).level,
            logging.getLogger(_DATABASE_LOGGER).level,
        )

    def change(self) -> None:
        """Set ours; a level that the caller has chosen stays."""
        for name, text in _SETTINGS.items():
            os.environ.setdefault(name, text)
        is_default = self.level == logging.INFO or not self.has_loaded
        if is_default and self.environment[_LEVEL_VARIABLE] is None:
            os.environ[_LEVEL_VARIABLE] = "WARNING"
            logging.getLogger(_LOGGER).setLevel(logging.WARNING)
            logging.getLogger(_DATABASE_LOGGER).setLevel(logging.CRITICAL)

    def restore(self) -> None:
        """Set the caller's again; MLflow's own level where MLflow was loaded meanwhile."""
        for name, text in self.environment.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        level: int | str = self.level
        if _LOGGER in sys.modules and not self.has_loaded:
            level = (os.environ.get(_LEVEL_VARIABLE) or "INFO").upper()
        logging.getLogger(_LOGGER).setLevel(level)
        logging.getLogger(_DATABASE_LOGGER).setLevel(self.database_level)


_settings_lock = threading.Lock()
_callers: list[_CallerSettings] = []  # an item a call under way; the first one's are the process's


@contextmanager
def restore_mlflow_settings() -> Iterator[None]:
    """Keep MLflow's notices and progress bars silent, then restore the process's own settings.

    Calls in several threads restore them once, when the last of them ends.
    """
    with _settings_lock:
        _callers.append(_callers[0] if _callers else _CallerSettings.read())
        _callers[0].change()
    try:
        yield
    finally:
        with _settings_lock:
            caller = _callers.pop()
            if not _callers:
                caller.restore()


def connect_client() -> "MlflowClient":
    """A client of the store that MLFLOW_TRACKING_URI names (MLflow's default: mlflow.db here).

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
    """Ask whether a server is there: MLflow itself waits minutes for one that does not answer."""
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


def download_artifact(uri: str) -> Path:
    """Where what MLflow has at `uri` lies on this machine: a copy until the process ends.

    A model whose files are on this machine is not copied.

    Raises:
        TrackingError: MLflow cannot download it.
        StorageError: There is no folder for temporary files.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if _is_local(uri):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
        folder = _create_exit_folder()
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except ImportError as error:
        raise _not_found_error(uri, error, _missing(error)) from error
    except (MlflowException, OSError) as error:
        hint = _suggest_remedy(str(error), "Check the address and MLFLOW_TRACKING_URI.")
        raise _not_found_error(uri, error, hint) from error


def _not_found_error(uri: str, error: Exception, hint: str) -> TrackingError:
    told = f"{uri} cannot be downloaded: {summarize_error(error)}"
    return TrackingError(redact_credentials(told), hint)


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
    """The experiment called `name`, made if need be; for None the one that MLflow has active.

    That is the one of `mlflow.set_experiment`, else of MLFLOW_EXPERIMENT_NAME (made if need be) or
    MLFLOW_EXPERIMENT_ID, else Default.

    Raises:
        TrackingError: It was deleted, or the store fails.
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
        return _find_or_make_experiment(client, name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _find_or_make_experiment(client, name)  # another process made it meanwhile


def _find_or_make_experiment(client: "MlflowClient", name: str | None) -> str:
    if name is None:
        from mlflow.tracking.fluent import _get_experiment_id

        return str(_get_experiment_id())
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def describe_experiment(client: "MlflowClient", experiment_id: str) -> None:
    """Set up an experiment's page for training runs, where nobody has set it up yet.

    It is decoration: MLflow refuses a tag that two processes set at once, and no run ends for that.
    """
    with suppress(TrialrunError), translate_tracking_errors("the experiment cannot be described"):
        tags = client.get_experiment(experiment_id).tags
        for name, value in _EXPERIMENT_TAGS.items():
            if name not in tags:
                client.set_experiment_tag(experiment_id, name, value)
