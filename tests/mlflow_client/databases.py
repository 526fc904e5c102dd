"""Databases in the states that interrupted, older and newer versions of MLflow leave."""

from pathlib import Path

import sqlalchemy

from trialrun.mlflow_client.schema import _load_revisions


def create_part(uri: str, num_migrations: int) -> None:
    """Take the first steps of MLflow's creation of a database, as if it was killed then."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    if num_migrations:
        config = _get_alembic_config(uri)
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, _load_revisions()[-num_migrations])
    engine.dispose()


def add_experiment(uri: str) -> None:
    """Add the experiment that MLflow adds as its last step."""
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
                "VALUES (0, 'Default', '/tmp/mlruns/0', 'active')"
            )
        )
    engine.dispose()


def set_revision(uri: str, revision: str) -> None:
    """Replace the revision of a database."""
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE alembic_version SET version_num = :revision"),
            {"revision": revision},
        )
    engine.dispose()


def address(path: Path) -> str:
    """Return the address of a SQLite file."""
    return f"sqlite:///{path}"
