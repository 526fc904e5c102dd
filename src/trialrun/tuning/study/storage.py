"""Where studies are kept: SQLite or PostgreSQL, made under a lock, and its locks."""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from trialrun.errors import TrackingError, summarize_error
from trialrun.tuning.plan import SQLITE, redact_password
from trialrun.tuning.study.locks import (
    LockHandle,
    acquire_file_lock,
    acquire_session_lock,
    hold_database_lock,
)

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_GRACE_BEATS = 3  # heartbeats missed before a worker is given up
_SQLITE_BUSY_SECONDS = 60
_CONNECT_SECONDS = 10
# Of a connection that is idle for hours, as the owner's is, lest a firewall forget it.
_KEEPALIVE = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 6}
DATABASE = "optuna.db"


def find_default_storage() -> str:
    """`optuna.db` beside a tracking store in SQLite, else in the current folder."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    folder = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else Path.cwd()
    return f"{SQLITE}{folder.absolute() / DATABASE}"


def with_driver(url: str) -> str:
    """The address with the driver named: which one is SQLAlchemy's default depends on its age."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


@contextmanager
def translate_optuna_errors(url: str) -> Iterator[None]:
    """Translate what a storage that is not there, or goes away, makes Optuna raise."""
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
            "Check --storage: the server must be up and the database there; a folder writable.",
        ) from error


@dataclass(frozen=True, slots=True)
class StudyStorage:
    """A storage of studies that is there."""

    url: str
    rdb: "RDBStorage"

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock `name` for seconds, waiting for it."""
        path = self._sqlite_path
        with acquire_file_lock(path, name) if path else hold_database_lock(self.rdb.engine, name):
            yield

    @contextmanager
    def try_lock(self, name: str) -> Iterator[LockHandle | None]:
        """Hold the lock `name`, for hours if need be; yields None where somebody else does."""
        path = self._sqlite_path
        held = (
            acquire_file_lock(path, name, seconds=0)
            if path
            else acquire_session_lock(self.rdb.engine, name)
        )
        with held as hold:
            yield hold

    def close(self) -> None:
        """Let go of its connections."""
        self.rdb.remove_session()
        self.rdb.engine.dispose()

    @property
    def _sqlite_path(self) -> Path | None:
        return Path(self.url.removeprefix(SQLITE)) if self.url.startswith(SQLITE) else None


def open_storage(url: str, *, heartbeat_seconds: int) -> StudyStorage:
    """The storage at `url`, its tables made if they are not there.

    Raises:
        TrackingError: There is no such server, database or folder.
    """
    url = with_driver(url)
    with translate_optuna_errors(url), silence_optuna():
        if not url.startswith(SQLITE):
            with _lock_table_creation(url):
                return StudyStorage(url, _make_rdb_storage(url, heartbeat_seconds))
        path = Path(url.removeprefix(SQLITE))
        if not path.parent.is_dir():
            raise TrackingError(
                f"the storage {url} cannot be used: there is no folder {path.parent}",
                "Make the folder, or give another --storage.",
            )
        try:
            with FileLock(f"{path}.lock"):
                rdb = _make_rdb_storage(url, heartbeat_seconds)
                with closing(sqlite3.connect(path)) as database:
                    database.execute("PRAGMA journal_mode=WAL")
        except OSError as error:
            raise TrackingError(
                f"the storage {url} cannot be used: {error.strerror or error}",
                "Give a --storage in a folder you may write to.",
            ) from error
    return StudyStorage(url, rdb)


@contextmanager
def _lock_table_creation(url: str) -> Iterator[None]:
    """Several processes that make a PostgreSQL database's tables at once spoil each other's."""
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(
        url, connect_args={"connect_timeout": _CONNECT_SECONDS}, poolclass=NullPool
    )
    with hold_database_lock(engine, "tables"):
        yield


def _make_rdb_storage(url: str, heartbeat_seconds: int) -> "RDBStorage":
    from optuna.storages import RDBStorage

    sqlite = url.startswith(SQLITE)
    served = {"connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE}
    limits = {"timeout": _SQLITE_BUSY_SECONDS} if sqlite else served
    return RDBStorage(
        url,
        engine_kwargs={"connect_args": limits} | ({} if sqlite else {"pool_pre_ping": True}),
        heartbeat_interval=heartbeat_seconds,
        grace_period=_GRACE_BEATS * heartbeat_seconds,
    )


@contextmanager
def silence_optuna() -> Iterator[None]:
    """Without Optuna's warnings of what it calls experimental, and of heartbeats we send."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield
