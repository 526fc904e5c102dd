"""The SQLite file of a store: created in one transaction, repaired, and set to WAL.

MLflow creates a database in about 70 steps, each in a transaction of its own. Processes that do so
at the same time corrupt it, and one that is killed leaves half of it. Here the tables are created
in a temporary file, and the statements that make a copy run in one transaction of SQLite.
"""

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from trialrun.errors import TrackingError
from trialrun.mlflow_client.schema import (
    DATA_TABLES,
    VERSION_TABLE,
    Schema,
    check_schema,
    is_ready,
    judge_schema,
    list_mlflow_tables,
)

_BUSY_SECONDS = 15.0
_WAL_BUSY_SECONDS = 0.5
# A process that still creates the tables adds one much more often, even on a busy machine.
_QUIET_SECONDS = 5.0
_POLL_SECONDS = 0.1
# WAL needs memory that all processes share, which those of another machine do not.
_NETWORK_FILE_SYSTEMS = (
    "9p afs beegfs ceph cifs fuse.ceph fuse.glusterfs fuse.sshfs glusterfs gpfs lustre ncpfs nfs "
    "nfs4 ocfs2 orangefs smb2 smb3 smbfs virtiofs"
).split()


def prepare_sqlite(path: Path, uri: str) -> None:
    """Create the database if it is missing, empty or half created, and set it to WAL.

    Raises:
        TrackingError: The file cannot be created, or its schema does not fit this MLflow.
        sqlite3.Error: The file cannot be read.
    """
    if path.exists():
        with closing(connect_file(path)) as database:
            if is_ready(read_schema(database)):
                _enable_wal(database, path)
                return
    with _lock_creation(path):
        _complete_tables(path, uri)
    with closing(connect_file(path)) as database:
        _enable_wal(database, path)


def connect_file(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a database in autocommit mode; without `create` a missing file is an error."""
    mode = "rwc" if create else "rw"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
    )


def read_schema(database: sqlite3.Connection) -> Schema:
    """Return the schema of a database."""
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = frozenset(name for (name,) in rows if not name.startswith("sqlite_"))
    revision = None
    if VERSION_TABLE in tables:
        row = database.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 - a constant
        revision = row[0] if row else None
    return Schema(tables, revision, frozenset(_find_data(database, tables)))


def _find_data(database: sqlite3.Connection, tables: frozenset[str]) -> Iterator[str]:
    for name in DATA_TABLES:
        if name in tables and database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone():  # noqa: S608 - a constant
            yield name


@contextmanager
def _lock_creation(path: Path) -> Iterator[None]:
    """Hold a lock file beside the database, in a folder that is created if it is missing."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path)
        lock.acquire()
    except OSError as error:
        raise TrackingError(
            f"{path} cannot be created: {error.strerror or error}",
            "Set MLFLOW_TRACKING_URI to a file in a writable folder.",
        ) from error
    try:
        yield
    finally:
        # Before the release: a process that waits for the deleted file tries again.
        with suppress(OSError):
            lock_path.unlink()
        lock.release()


def _complete_tables(path: Path, uri: str) -> None:
    """Create all tables, unless another process does so; then wait for it."""
    statements: list[str] | None = None
    before, changed_at = Schema(), time.monotonic()
    with closing(connect_file(path, create=True)) as database:
        while not is_ready(schema := read_schema(database)):
            check_schema(schema, uri)
            if schema != before:
                before, changed_at = schema, time.monotonic()
            state = judge_schema(schema)
            if state != "empty" and time.monotonic() - changed_at < _QUIET_SECONDS:
                time.sleep(_POLL_SECONDS)
            elif state == "unopened":
                _open_once(uri)
            else:
                statements = statements or _list_statements()
                _write_tables(database, schema, statements)


def _open_once(uri: str) -> None:
    """Let MLflow open a database, which creates what is missing, and close it."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)._dispose_engine()


def _list_statements() -> list[str]:
    """Return the statements that create MLflow's tables and its first experiment.

    MLflow sets the folder of that experiment, `mlruns` in the current folder, in them.
    """
    with tempfile.TemporaryDirectory(prefix="trialrun-") as folder:
        path = Path(folder) / "mlflow.db"
        _open_once(f"sqlite:///{path}")
        with closing(connect_file(path)) as database:
            lines = list(database.iterdump())
    return lines[1:-1]  # without BEGIN and COMMIT


def _write_tables(database: sqlite3.Connection, schema: Schema, statements: list[str]) -> None:
    """Replace MLflow's tables, none of which has user data, unless the schema changed since."""
    database.execute("BEGIN EXCLUSIVE")
    try:
        if read_schema(database) == schema:
            for name in schema.tables:
                if name in list_mlflow_tables() or name.startswith(("alembic_", "_alembic_")):
                    database.execute(f'DROP TABLE "{name}"')
            for statement in statements:
                database.execute(statement)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _enable_wal(database: sqlite3.Connection, path: Path) -> None:
    """Let readers and a writer work at the same time; the file keeps the mode.

    Nothing happens if the file or its folder is read-only, another process uses the file, the user
    has set another mode, or the file is on a network.
    """
    if database.execute("PRAGMA journal_mode").fetchone() != ("delete",):
        return
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)) or _is_on_network(path):
        return
    with suppress(sqlite3.Error):
        database.execute(f"PRAGMA busy_timeout = {round(1000 * _WAL_BUSY_SECONDS)}")
        database.execute("PRAGMA journal_mode=WAL")


def _is_on_network(path: Path) -> bool:
    import psutil

    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    return find_file_system(path.resolve(), mounts) in _NETWORK_FILE_SYSTEMS


def find_file_system(path: Path, mounts: dict[str, str]) -> str:
    """Return the type of the file system that has the path, given the types by mount point."""
    return next((mounts[str(parent)] for parent in path.parents if str(parent) in mounts), "")
