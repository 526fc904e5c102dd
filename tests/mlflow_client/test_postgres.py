"""Tests of PostgreSQL databases as tracking stores."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

from tests.mlflow_client.databases import add_experiment, create_part, set_revision
from tests.processes import run_program
from tests.tracking.test_conflicts import run_together
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, describe_store
from trialrun.mlflow_client.postgres import open_engine, read_schema
from trialrun.mlflow_client.schema import is_ready

pytestmark = pytest.mark.slow

CreateDatabase = Callable[[str], str]


@pytest.fixture
def create_database(postgres: str, monkeypatch: pytest.MonkeyPatch) -> CreateDatabase:
    """Return a function that creates a database, makes it the store and returns its address."""

    def create(name: str) -> str:
        run_statement(postgres, f"CREATE DATABASE {name}")
        uri = f"{postgres.rpartition('/')[0]}/{name}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return uri

    return create


def run_statement(uri: str, statement: str) -> None:
    """Run a statement outside of a transaction."""
    engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def check_usable(uri: str) -> None:
    """Check that MLflow writes a run to the store."""
    client = mlflow.MlflowClient(uri)
    assert [found.experiment_id for found in client.search_experiments()] == ["0"]
    assert client.get_run(client.create_run("0").info.run_id).info.status == "RUNNING"


def test_processes_open_an_empty_database_at_once(
    create_database: CreateDatabase, tmp_path: Path
) -> None:
    """12 processes find no tables: one creates them, the others wait."""
    uri = create_database("together")
    run_together("stores", uri, 12, tmp_path)
    check_usable(uri)


def test_reading_the_schema_blocks_no_change_of_it(create_database: CreateDatabase) -> None:
    """MLflow changes two tables in one step while the second one is being read."""
    uri = create_database("changed")
    connect_client()
    with open_engine(uri) as engine, ThreadPoolExecutor(1) as pool:
        with engine.begin() as changing:
            lock_table(changing, "runs")
            reading = pool.submit(read_schema, engine)
            wait_for_reader(engine)
            lock_table(changing, "alembic_version")
        assert is_ready(reading.result(timeout=60))


def lock_table(connection: sqlalchemy.Connection, name: str) -> None:
    """Lock a table, as a change of it does."""
    connection.execute(sqlalchemy.text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))


def wait_for_reader(engine: sqlalchemy.Engine) -> None:
    """Wait until a connection waits for a lock."""
    waiting = sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with engine.connect() as connection:
        for _ in range(600):
            if connection.scalar(waiting):
                return
            time.sleep(0.1)
    raise AssertionError("no connection waits for a lock")


@pytest.mark.parametrize("num_migrations", [0, 30])
def test_interrupted_creation_is_continued(
    create_database: CreateDatabase, num_migrations: int
) -> None:
    """PostgreSQL undoes the step that was interrupted, so the next ones follow."""
    uri = create_database(f"half{num_migrations}")
    create_part(uri, num_migrations)
    assert describe_store(uri).message == "a run creates the tables"
    connect_client()
    check_usable(uri)


def test_older_database_is_refused(create_database: CreateDatabase) -> None:
    """The hint has the command of MLflow."""
    uri = create_database("older")
    create_part(uri, 40)
    add_experiment(uri)
    with pytest.raises(TrackingError, match="older MLflow") as raised:
        connect_client()
    assert "`mlflow db upgrade postgresql://127.0.0.1" in raised.value.hint


def test_newer_database_is_refused(create_database: CreateDatabase) -> None:
    """The hint is to upgrade MLflow."""
    uri = create_database("newer")
    connect_client()
    set_revision(uri, "from_the_future")
    done = run_program([sys.executable, "-m", "trialrun", "history", "any"])
    assert done.returncode == 5
    assert "Hint: Use the newer MLflow" in done.stderr
    assert describe_store(uri).version == "from_the_future"


def test_read_only_database_is_described(create_database: CreateDatabase) -> None:
    """A replica answers, but refuses changes."""
    uri = create_database("replica")
    connect_client()
    assert describe_store(uri).is_writable
    run_statement(uri, "ALTER DATABASE replica SET default_transaction_read_only = on")
    state = describe_store(uri)
    assert (state.is_reachable, state.is_writable) == (True, False)
    assert "primary server" in state.remedy


def test_missing_database_is_one_error(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words "does not exist" do not lead to the hint for a missing run."""
    uri = f"{postgres.rpartition('/')[0]}/missing"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="does not exist") as raised:
        connect_client()
    assert raised.value.hint.startswith("Create the database")
