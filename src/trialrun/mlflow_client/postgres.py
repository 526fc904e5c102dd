"""The PostgreSQL database of a store: its tables are created by one process at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trialrun.mlflow_client.schema import (
    DATA_TABLES,
    VERSION_TABLE,
    Schema,
    check_schema,
    is_ready,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_CONNECT_SECONDS = 10  # for each address of the host
_LOCK_KEY = 0x747269616C72756E  # "trialrun"; advisory locks of PostgreSQL are numbers
_NUM_ATTEMPTS = 6  # creation by MLflow in another process may conflict with ours
_RETRY_SECONDS = 2.0
_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"


def prepare_postgres(uri: str) -> None:
    """Create the tables of an empty database, one process at a time.

    A creation that was interrupted is continued: PostgreSQL undoes its unfinished step.

    Raises:
        TrackingError: The schema does not fit this MLflow.
        SQLAlchemyError: The server does not answer, or refuses the connection.
    """
    with open_engine(uri) as engine:
        if is_ready(read_schema(engine)):
            return
        with _hold_lock(engine):
            schema = read_schema(engine)
            if not is_ready(schema):
                check_schema(schema, uri)
                _create_tables(uri, engine)


@contextmanager
def open_engine(uri: str) -> Iterator["Engine"]:
    """Yield an engine that keeps no connections and does not wait long for a server."""
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(
        uri, poolclass=NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS}
    )
    try:
        yield engine
    finally:
        engine.dispose()


def read_schema(engine: "Engine") -> Schema:
    """Return the schema of a database.

    Each table is read in a transaction of its own. One that had read a table and waited for another
    could block, and be blocked by, a process that changes both.
    """
    from sqlalchemy import text

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        tables = frozenset(connection.scalars(text(_TABLES)))
        revision = None
        if VERSION_TABLE in tables:
            revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant
        return Schema(tables, revision, frozenset(_find_data(connection, tables)))


def is_writable(engine: "Engine") -> bool:
    """Whether the database accepts changes: a replica of a server does not."""
    from sqlalchemy import text

    with engine.connect() as connection:
        return bool(connection.scalar(text("SHOW transaction_read_only")) == "off")


def _find_data(connection: "Connection", tables: frozenset[str]) -> Iterator[str]:
    from sqlalchemy import text

    for name in DATA_TABLES:
        if name in tables and connection.scalar(text(f"SELECT 1 FROM {name} LIMIT 1")):  # noqa: S608 - a constant
            yield name


@contextmanager
def _hold_lock(engine: "Engine") -> Iterator[None]:
    """Wait for the lock of this database and hold it with a connection that does nothing else.

    A transaction that had read a table would block MLflow's changes of it.
    """
    from sqlalchemy import text

    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        yield


def _create_tables(uri: str, engine: "Engine") -> None:
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for attempt in range(1, _NUM_ATTEMPTS + 1):
        try:
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError):
            time.sleep(_RETRY_SECONDS)
            if is_ready(read_schema(engine)):
                return
            if attempt == _NUM_ATTEMPTS:
                raise
        else:
            return
