"""Addresses of tracking stores: their kinds, and relative ones made absolute."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

StoreKind = Literal["sqlite", "postgresql", "server", "files", "other"]

TRACKING_VARIABLE, _REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
RUN_ID_VARIABLE = "MLFLOW_RUN_ID"  # set by `mlflow run` for its child
URI_VARIABLES = (TRACKING_VARIABLE, _REGISTRY)

_KINDS: dict[str, StoreKind] = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "http": "server",
    "https": "server",
    "": "files",
    "file": "files",
}
_NAMES = ("databricks", "databricks-uc", "uc")  # addresses without a scheme that are not paths


def find_store_kind(uri: str) -> StoreKind:
    """Return the kind of store at an address; a driver in its scheme does not matter."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    return "other" if uri in _NAMES else _KINDS.get(scheme, "other")


def find_sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite address; None for one in memory and for other addresses."""
    if find_store_kind(uri) != "sqlite":
        return None
    from sqlalchemy.engine import make_url

    database = make_url(uri).database  # decodes %20, in newer versions of SQLAlchemy only
    if not database or database == ":memory:" or database.startswith("file:"):
        return None
    return Path(database)


def find_files_path(uri: str) -> Path:
    """Return the folder of a file store."""
    return Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri).absolute()


def resolve_uris() -> list[str]:
    """Return the absolute addresses of the tracking store and of a registry of its own, if any.

    The environment gets them as well, so that child processes and this process use the same stores
    after a change of the current folder.
    """
    import mlflow

    tracking = make_absolute(mlflow.get_tracking_uri())
    os.environ[TRACKING_VARIABLE] = tracking
    if mlflow.get_tracking_uri() != tracking:  # `mlflow.set_tracking_uri` was called
        mlflow.set_tracking_uri(tracking)
    registry = os.environ.get(_REGISTRY)
    if not registry:
        return [tracking]
    os.environ[_REGISTRY] = make_absolute(registry)
    return list(dict.fromkeys([tracking, os.environ[_REGISTRY]]))


def make_absolute(uri: str) -> str:
    """Return the address with an absolute path if it is one of a SQLite file, else unchanged."""
    path = find_sqlite_path(uri)
    if path is None:
        return uri
    from sqlalchemy.engine import make_url

    absolute = path if path.is_absolute() else _find_folder(path) / path
    scheme, _, rest = uri.partition(":///")
    query = "".join(rest.partition("?")[1:])
    plain = f"{scheme}:///{absolute}{query}"
    if make_url(plain).database == str(absolute):
        return plain
    return f"{scheme}:///{quote(str(absolute))}{query}"


def _find_folder(path: Path) -> Path:
    """Return the folder that a relative path starts from.

    `mlflow run` passes the path to its child, which runs in the project's folder. So the run
    that it created is looked for from the folders of the parent processes too.
    """
    current = Path.cwd()
    run_id = os.environ.get(RUN_ID_VARIABLE)
    if not run_id or _has_run(current / path, run_id):
        return current
    folders = (folder for folder in _list_parent_folders() if _has_run(folder / path, run_id))
    return next(folders, current)


def _list_parent_folders() -> Iterator[Path]:
    """Yield the current folders of the parent processes that this user may read."""
    import psutil

    for process in psutil.Process().parents():
        with suppress(psutil.Error, OSError):
            yield Path(process.cwd())


def _has_run(path: Path, run_id: str) -> bool:
    """Whether the database has the run; False if it cannot be read."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database,
    ):
        found = database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
        return found is not None
    return False
