"""The storage of studies: a SQLite or PostgreSQL database, its tables and its locks."""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from trialrun.errors import TrackingError, summarize_error
from trialrun.tuning.storage_url import (
    SQLITE_PREFIX,
    find_sqlite_path,
    redact_password,
    with_driver,
)
from trialrun.tuning.study.locks import (
    LockHandle,
    acquire_file_lock,
    acquire_session_lock,
    hold_database_lock,
)

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_GRACE_HEARTBEATS = 3  # missed heartbeats after which a trial is stale
_SQLITE_BUSY_SECONDS = 60
_CONNECT_SECONDS = 10
# The owner's connection is idle for hours: firewalls drop such connections.
_KEEPALIVE = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 6}
_DATABASE = "optuna.db"


def find_default_storage() -> str:
    """Return the URL of `optuna.db` beside a SQLite tracking store, else in the current folder."""
    import mlflow

    path = find_sqlite_path(mlflow.get_tracking_uri())
    folder = path.parent if path else Path.cwd()
    return f"{SQLITE_PREFIX}{folder.absolute() / _DATABASE}"


@contextmanager
def translate_optuna_errors(url: str) -> Iterator[None]:
    """Raise the errors of a missing or failing storage as TrackingError."""
    import optuna.exceptions
    import sqlalchemy.exc

    try:
        yield
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        sqlite3.Error,
        RuntimeError,
    ) as error:
        if isinstance(error, RuntimeError) and "schema" not in str(error):
            raise
        cause = error.__cause__ or error
        reason = summarize_error(cause)
        raise TrackingError(
            f"the storage {redact_password(url)} cannot be used: {reason}",
            "Check --storage: the server must run and have the database; folders must be writable.",
        ) from error


@dataclass(frozen=True, slots=True)
class StudyStorage:
    """An open storage of studies."""

    url: str
    rdb: "RDBStorage"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait for the lock `name` and hold it; for work of seconds."""
        path = find_sqlite_path(self.url)
        with acquire_file_lock(path, name) if path else hold_database_lock(self.rdb.engine, name):
            yield

    @contextmanager
    def try_lock(self, name: str) -> Iterator[LockHandle | None]:
        """Hold the lock `name`, for hours if needed; yield None if another process holds it."""
        path = find_sqlite_path(self.url)
        acquired = (
            acquire_file_lock(path, name, seconds=0)
            if path
            else acquire_session_lock(self.rdb.engine, name)
        )
        with acquired as handle:
            yield handle

    def close(self) -> None:
        """Close the connections."""
        self.rdb.remove_session()
        self.rdb.engine.dispose()


def open_storage(url: str, *, heartbeat_seconds: int) -> StudyStorage:
    """Open the storage at `url` and create missing tables.

    Raises:
        TrackingError: The server, the database or the folder does not exist or cannot be used.
    """
    url = with_driver(url)
    path = find_sqlite_path(url)
    with translate_optuna_errors(url), silence_optuna():
        if path:
            return StudyStorage(url, _open_sqlite(url, path, heartbeat_seconds))
        with _lock_table_creation(url):
            return StudyStorage(url, _make_rdb_storage(url, heartbeat_seconds))


def _open_sqlite(url: str, path: Path, heartbeat_seconds: int) -> "RDBStorage":
    if not path.parent.is_dir():
        raise TrackingError(
            f"the storage {url} cannot be used: folder {path.parent} does not exist",
            "Create the folder, or give another --storage.",
        )
    try:
        with FileLock(f"{path}.lock"):
            rdb = _make_rdb_storage(url, heartbeat_seconds)
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA journal_mode=WAL")
    except OSError as error:
        raise TrackingError(
            f"the storage {url} cannot be used: {error.strerror or error}",
            "Give a --storage in a writable folder.",
        ) from error
    return rdb


@contextmanager
def _lock_table_creation(url: str) -> Iterator[None]:
    """Hold a lock while tables are created: PostgreSQL fails if two processes create them."""
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(
        url, connect_args={"connect_timeout": _CONNECT_SECONDS}, poolclass=NullPool
    )
    with hold_database_lock(engine, "tables"):
        yield


def _make_rdb_storage(url: str, heartbeat_seconds: int) -> "RDBStorage":
    from optuna.storages import RDBStorage

    engine_kwargs: dict[str, Any]
    if find_sqlite_path(url):
        engine_kwargs = {"connect_args": {"timeout": _SQLITE_BUSY_SECONDS}}
    else:
        connect_args = {"connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE}
        engine_kwargs = {"connect_args": connect_args, "pool_pre_ping": True}
    return RDBStorage(
        url,
        engine_kwargs=engine_kwargs,
        heartbeat_interval=heartbeat_seconds,
        grace_period=_GRACE_HEARTBEATS * heartbeat_seconds,
    )


@contextmanager
def silence_optuna() -> Iterator[None]:
    """Suppress Optuna's log and its warnings of experimental features and of heartbeats."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield
