"""The schema of a database, compared with the one of the installed MLflow.

MLflow itself changes an older schema when it opens the database, without a backup, and several
processes that do so at once break it. So the schema is judged before MLflow opens the database.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from trialrun.errors import TrackingError, redact_credentials

SchemaState = Literal["empty", "incomplete", "unopened", "complete", "older", "newer", "foreign"]

VERSION_TABLE = "alembic_version"
# Tables without which a store has no user data. MLflow adds an experiment as the last step.
DATA_TABLES = ("experiments", "runs", "registered_models")


@dataclass(frozen=True, slots=True)
class Schema:
    """What decides whether MLflow can use a database.

    `data_tables` are those of DATA_TABLES that have rows.
    """

    tables: frozenset[str] = frozenset()
    revision: str | None = None
    data_tables: frozenset[str] = frozenset()


def is_ready(schema: Schema) -> bool:
    """Whether all tables exist and the first experiment too: MLflow creates nothing more.

    The revision is not compared, because reading MLflow's migrations takes 30 ms. MLflow compares
    it when it opens the database.
    """
    return _load_tables() <= schema.tables and "experiments" in schema.data_tables


def judge_schema(schema: Schema) -> SchemaState:
    """Return the state of a schema.

    empty: no tables of MLflow. incomplete: the creation was interrupted, or is in progress.
    unopened: all tables, but not the first experiment. foreign: another program's versions.
    """
    tables = schema.tables & list_mlflow_tables()
    revisions = _load_revisions()
    if schema.revision is not None and schema.revision not in revisions:
        return "newer" if tables else "foreign"
    if not tables and schema.revision is None:
        return "empty"
    is_newest = schema.revision == revisions[0] and _load_tables() <= schema.tables
    if schema.data_tables:
        return "complete" if is_newest else "older"
    return "unopened" if is_newest else "incomplete"


def check_schema(schema: Schema, uri: str) -> None:
    """Check that MLflow can use the database as it is, or that it can be created.

    Raises:
        TrackingError: The schema is older or newer than MLflow's, or another program's.
    """
    state = judge_schema(schema)
    if state in ("older", "newer", "foreign"):
        raise _make_error(state, str(schema.revision), uri)


def _make_error(state: SchemaState, revision: str, uri: str) -> TrackingError:
    from mlflow.version import VERSION

    shown = redact_credentials(uri)
    if state == "older":
        added = "" if shown == uri else ", with the user and the password in the address"
        return TrackingError(
            f"the database {shown} has the schema of an older MLflow (revision {revision})",
            f"Back it up, then upgrade it: `mlflow db upgrade {shown}`{added}.",
        )
    if state == "newer":
        return TrackingError(
            f"the database {shown} has a schema that MLflow {VERSION} does not know "
            f"(revision {revision})",
            "Use the newer MLflow that wrote it (`pip install --upgrade mlflow`), or another "
            "MLFLOW_TRACKING_URI.",
        )
    return TrackingError(
        f"the database {shown} belongs to another program (revision {revision})",
        "Set MLFLOW_TRACKING_URI to a database of its own.",
    )


@cache
def _load_tables() -> frozenset[str]:
    """Return the tables of the installed MLflow."""
    import mlflow.store.db.utils  # it imports the modules of all tables
    from mlflow.store.db.base_sql_model import Base

    assert mlflow.store.db.utils  # the import has an effect
    return frozenset(Base.metadata.tables)


@cache
def list_mlflow_tables() -> frozenset[str]:
    """Return the tables of the installed MLflow and those of its first version."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    return _load_tables() | frozenset(Base.metadata.tables)


@cache
def _load_revisions() -> tuple[str, ...]:
    """Return the revisions of the schema that MLflow knows, the newest one first."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    return tuple(revision.revision for revision in script.walk_revisions())
