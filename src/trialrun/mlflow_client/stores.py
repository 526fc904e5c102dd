"""Tracking stores of every kind: prepared for MLflow, and described."""

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trialrun.errors import TrackingError, TrialrunError, redact_credentials
from trialrun.mlflow_client.errors import suggest_remedy, translate_tracking_errors
from trialrun.mlflow_client.postgres import is_writable, open_engine, prepare_postgres
from trialrun.mlflow_client.postgres import read_schema as read_postgres_schema
from trialrun.mlflow_client.schema import Schema, check_schema, judge_schema
from trialrun.mlflow_client.server import check_server
from trialrun.mlflow_client.sqlite import connect_file, prepare_sqlite
from trialrun.mlflow_client.sqlite import read_schema as read_sqlite_schema
from trialrun.mlflow_client.tracking_uri import (
    StoreKind,
    find_files_path,
    find_sqlite_path,
    find_store_kind,
    make_absolute,
)


@dataclass(frozen=True, slots=True)
class StoreState:
    """What is known about a tracking store.

    `version` is that of a server, or the revision of a database's schema. `is_writable` is None if
    only a run would show it. `remedy` says what to do, and is empty if the store can be used.
    """

    kind: StoreKind
    address: str
    is_reachable: bool
    version: str | None
    is_writable: bool | None
    message: str
    remedy: str = ""


def prepare_store(uri: str) -> None:
    """Create a missing database, and check that MLflow can use the store.

    Raises:
        TrackingError: The store cannot be used.
    """
    kind, path = find_store_kind(uri), find_sqlite_path(uri)
    if path is not None:
        prepare_sqlite(path, uri)
    elif kind == "postgresql":
        prepare_postgres(uri)
    elif kind == "server":
        check_server(uri)
    elif kind == "files":
        _refuse_files(uri)


def check_database(uri: str) -> None:
    """Check the schema of a database; other stores have none that a client sees.

    Raises:
        TrackingError: The schema is older or newer than MLflow's, or another program's.
    """
    if (path := find_sqlite_path(uri)) is not None:
        with closing(connect_file(path)) as database:
            check_schema(read_sqlite_schema(database), uri)
    elif find_store_kind(uri) == "postgresql":
        with open_engine(uri) as engine:
            check_schema(read_postgres_schema(engine), uri)


def describe_store(uri: str) -> StoreState:
    """Return the state of the store at an address; nothing is created or changed."""
    uri = make_absolute(uri)
    kind, path = find_store_kind(uri), find_sqlite_path(uri)
    try:
        with translate_tracking_errors("the tracking store cannot be opened"):
            if path is not None:
                return _describe_sqlite(uri, path)
            if kind == "postgresql":
                return _describe_postgres(uri)
            if kind == "files":
                _refuse_files(uri)
            version = check_server(uri) if kind == "server" else None
    except TrialrunError as error:
        address = redact_credentials(uri)
        return StoreState(kind, address, False, None, None, str(error), error.hint)
    text = str(version) if version else None
    message = f"MLflow {text}" if text else "MLflow's version is unknown"
    return StoreState(kind, redact_credentials(uri), True, text, None, message)


def _describe_sqlite(uri: str, path: Path) -> StoreState:
    if not path.exists():
        folder = next(parent for parent in path.parents if parent.is_dir())
        is_writable = os.access(folder, os.W_OK)
        hint = "" if is_writable else "Set MLFLOW_TRACKING_URI to a file in a writable folder."
        return StoreState("sqlite", uri, True, None, is_writable, "a run creates the file", hint)
    with closing(connect_file(path)) as database:
        return _describe_schema("sqlite", uri, read_sqlite_schema(database), _try_write(database))


def _try_write(database: sqlite3.Connection) -> str:
    """Return the error that a change would raise; empty if it would not."""
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return str(error)
    return ""


def _describe_postgres(uri: str) -> StoreState:
    with open_engine(uri) as engine:
        failure = "" if is_writable(engine) else "read-only transaction"
        return _describe_schema("postgresql", uri, read_postgres_schema(engine), failure)


def _describe_schema(kind: StoreKind, uri: str, schema: Schema, failure: str) -> StoreState:
    """Return the state of a database, given why it refuses changes, if it does."""
    is_complete = judge_schema(schema) == "complete"
    message = "the schema is up to date" if is_complete else "a run creates the tables"
    remedy = suggest_remedy(failure) if failure else ""
    try:
        check_schema(schema, uri)
    except TrackingError as error:
        message, remedy = str(error), error.hint
    else:
        message = f"the database cannot be changed: {failure}" if failure else message
    address = redact_credentials(uri)
    return StoreState(kind, address, True, schema.revision, not failure, message, remedy)


def _refuse_files(uri: str) -> None:
    """Raise the error of a file store, which MLflow opens only if a variable says so.

    MLflow's default is one where a former version has left `mlruns/0/meta.yaml`.
    """
    from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE

    if MLFLOW_ALLOW_FILE_STORE.get():
        return
    folder = find_files_path(uri)
    path = folder.parent / "mlflow.db"
    use = f"set MLFLOW_TRACKING_URI=sqlite:///{path}"
    if not folder.is_dir():
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is the folder {folder}, but MLflow no longer writes file stores",
            f"For a SQLite store, {use}.",
        )
    migrate = f"`mlflow migrate-filestore --source {folder} --target sqlite:///{path}`"
    raise TrackingError(
        f"{folder} is a file store of a former MLflow, which the present one does not write",
        f"To use {path}, {use}."
        if path.exists()
        else f"To keep its runs, migrate it: {migrate}. Then, or for a new store, {use}.",
    )
