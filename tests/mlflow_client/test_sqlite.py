"""Tests of SQLite files: created, repaired and set to WAL."""

import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

from tests.mlflow_client.databases import add_experiment, address, create_part, set_revision
from tests.processes import ForkedProgram, run_program
from tests.system.test_full_disk import Disk, disk  # noqa: F401 - a fixture
from tests.tracking.test_conflicts import run_together
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, sqlite, translate_tracking_errors
from trialrun.mlflow_client.schema import is_ready
from trialrun.mlflow_client.sqlite import connect_file, find_file_system

_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a missing file, which is the tracking store, in a missing folder."""
    path = tmp_path / "missing" / "folder" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(path))
    monkeypatch.chdir(tmp_path)
    return path


def read_rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Return the rows of a statement."""
    with closing(sqlite3.connect(path)) as database:
        return list(database.execute(statement))


def check_usable(path: Path) -> None:
    """Check that MLflow opens the store and writes a run to it."""
    client = mlflow.MlflowClient(address(path))
    assert [found.experiment_id for found in client.search_experiments()] == ["0"]
    assert client.get_run(client.create_run("0").info.run_id).info.status == "RUNNING"
    assert read_rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert read_rows(path, "PRAGMA journal_mode") == [("wal",)]


def read_schema(path: Path) -> list[tuple[object, ...]]:
    """Return the schema; MLflow writes a table's constraints in an order that varies."""
    return [
        (*names, sorted(re.findall(r"\w+", str(sql)))) for *names, sql in read_rows(path, _SCHEMA)
    ]


@pytest.mark.slow
def test_created_store_equals_that_of_mlflow(path: Path, initialised_store: Path) -> None:
    """Tables and rows are the same, artifacts go to `mlruns` in the current folder."""
    connect_client()
    assert read_schema(path) == read_schema(initialised_store)
    experiment = "SELECT experiment_id, name, artifact_location FROM experiments"
    assert read_rows(path, experiment) == [(0, "Default", str(Path.cwd() / "mlruns" / "0"))]
    check_usable(path)
    assert sorted(p.name for p in path.parent.iterdir() if "-" not in p.name) == ["mlflow.db"]


@pytest.mark.slow
def test_empty_file_becomes_a_store(path: Path) -> None:
    """SQLite leaves a file of 0 bytes when a process ends before its first write."""
    path.parent.mkdir(parents=True)
    path.touch()
    connect_client()
    check_usable(path)


@pytest.mark.slow
@pytest.mark.parametrize("num_migrations", [0, 30])
def test_half_created_store_is_completed(
    path: Path, num_migrations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process of MLflow leaves such a file, which MLflow cannot open."""
    path.parent.mkdir(parents=True)
    create_part(address(path), num_migrations)
    monkeypatch.setattr(sqlite, "_QUIET_SECONDS", 0.5)
    connect_client()
    check_usable(path)


_PLAIN = "import mlflow, sys; print(len(mlflow.MlflowClient(sys.argv[1]).search_experiments()))"


@pytest.mark.slow
def test_store_that_mlflow_still_creates_is_waited_for(path: Path) -> None:
    """A process of plain MLflow, which takes no lock of ours, finishes its work."""
    command = [sys.executable, "-c", _PLAIN, address(path)]
    plain = ForkedProgram(command, stdout=subprocess.PIPE, cwd=path.parents[2])
    try:
        while not (path.exists() and path.stat().st_size):
            assert plain.poll() is None
            time.sleep(0.01)
        connect_client()
        assert plain.communicate(timeout=60)[0] == "1\n"
    finally:
        plain.kill()
        plain.wait()
    check_usable(path)


@pytest.mark.slow
@pytest.mark.parametrize("is_empty_file", [True])
def test_processes_create_one_store_at_once(path: Path, is_empty_file: bool) -> None:
    """12 processes start on a missing folder, or on a file of 0 bytes."""
    if is_empty_file:
        path.parent.mkdir(parents=True)
        path.touch()
    run_together("stores", address(path), 12, Path.cwd())
    check_usable(path)


_KILLED = """
import os, sys, threading, time
import mlflow.store.tracking.sqlalchemy_store, mlflow
from trialrun.mlflow_client import connect_client
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), 9)).start()
connect_client()
time.sleep(60)
"""


@pytest.mark.slow
def test_store_is_usable_after_its_creator_was_killed(path: Path) -> None:
    """Four processes get SIGKILL one after the other, at moments spread over the creation."""
    for number in range(4):
        killed = run_program([sys.executable, "-c", _KILLED, str(0.1 + 0.5 * number)])
        assert killed.returncode == -signal.SIGKILL
        if path.exists() and path.stat().st_size:
            with closing(connect_file(path)) as database:
                assert is_ready(sqlite.read_schema(database))
    connect_client()
    check_usable(path)


@pytest.mark.slow
def test_kill_in_the_write_leaves_no_tables(path: Path) -> None:
    """The statements run in one transaction, which the next process undoes."""
    path.parent.mkdir(parents=True)
    code = (
        "import os, sys, sqlite3\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('PRAGMA cache_size = 1')\n"  # so that pages reach the file before the end
        "database.execute('BEGIN EXCLUSIVE')\n"
        "[database.execute(f'CREATE TABLE runs{i} (a)') for i in range(200)]\n"
        "database.execute('CREATE TABLE runs (a)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.stat().st_size
    connect_client()
    check_usable(path)


def test_store_of_plain_mlflow_is_set_to_wal(store: str) -> None:
    """The mode is stored in the file; tables and data stay as they are."""
    path = Path(store.removeprefix("sqlite:///"))
    before = read_rows(path, _SCHEMA)
    assert read_rows(path, "PRAGMA journal_mode") == [("delete",)]
    connect_client()
    assert read_rows(path, "PRAGMA journal_mode") == [("wal",)]
    assert read_rows(path, _SCHEMA) == before


def test_store_in_use_keeps_its_journal_mode(store: str) -> None:
    """SQLite cannot change it while another process reads; the connection works all the same."""
    path = Path(store.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM runs").fetchall()
        connect_client()
        reader.execute("ROLLBACK")
    assert read_rows(path, "PRAGMA journal_mode") == [("delete",)]


def test_read_only_store_is_read_and_not_changed(
    initialised_store: Path,
    disk: Disk,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store on a read-only disk is opened; a change of it fails with a remedy."""
    folder = disk(8_000_000)
    path = folder / "mlflow.db"
    path.write_bytes(initialised_store.read_bytes())
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(path))
    client = connect_client()
    with (
        pytest.raises(TrackingError) as raised,
        translate_tracking_errors("no"),
    ):
        client.create_experiment("new")
    assert "writable" in raised.value.hint
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(folder / "new" / "mlflow.db"))
    with pytest.raises(TrackingError, match="Read-only") as raised:
        connect_client()
    assert "writable folder" in raised.value.hint


def test_locked_store_is_one_error(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the database for longer than we wait."""
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.2)
    path = Path(store.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="locked") as raised:
            connect_client()
    assert "stop it, or use an MLflow server" in raised.value.hint


def test_older_store_is_refused_unchanged(path: Path) -> None:
    """MLflow would migrate it without a backup; the hint has the command."""
    path.parent.mkdir(parents=True)
    create_part(address(path), 40)
    add_experiment(address(path))
    before = path.read_bytes()
    with pytest.raises(TrackingError, match="older MLflow") as raised:
        connect_client()
    assert f"`mlflow db upgrade sqlite:///{path}`" in raised.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("revision", ["from_the_future", "451aebb31d03"])
def test_schema_of_another_revision_is_refused(
    path: Path, initialised_store: Path, revision: str
) -> None:
    """All tables exist, so only MLflow's own comparison finds the difference."""
    path.parent.mkdir(parents=True)
    path.write_bytes(initialised_store.read_bytes())
    set_revision(address(path), revision)
    with pytest.raises(TrackingError) as raised:
        connect_client()
    newer = revision == "from_the_future"
    assert ("pip install --upgrade mlflow" if newer else "mlflow db upgrade") in raised.value.hint


def test_database_of_another_program_is_refused(path: Path) -> None:
    """Optuna, too, keeps its revision in a table `alembic_version`."""
    path.parent.mkdir(parents=True)
    engine = sqlalchemy.create_engine(address(path))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(sqlalchemy.text("INSERT INTO alembic_version VALUES ('v3.0.0.d')"))
    engine.dispose()
    with pytest.raises(TrackingError, match="another program"):
        connect_client()


@pytest.mark.slow
def test_tables_of_another_program_are_kept(path: Path) -> None:
    """MLflow puts its tables beside them, and so do we."""
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE mine (a)")
        database.execute("INSERT INTO mine VALUES (7)")
        database.commit()
    connect_client()
    assert read_rows(path, "SELECT a FROM mine") == [(7,)]
    check_usable(path)


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    """The file stays as it is."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"text" * 1000)
    with pytest.raises(TrackingError, match="not a database") as raised:
        connect_client()
    assert "another file" in raised.value.hint
    assert path.read_bytes() == b"text" * 1000


def test_file_system_is_that_of_the_deepest_mount() -> None:
    """WAL is not used on a network, because it needs memory that all processes share."""
    mounts = {"/": "ext4", "/home": "nfs4", "/home/me/fast": "xfs"}
    assert find_file_system(Path("/home/me/mlflow.db"), mounts) == "nfs4"
    assert find_file_system(Path("/home/me/fast/mlflow.db"), mounts) == "xfs"
    assert find_file_system(Path("/tmp/mlflow.db"), mounts) == "ext4"
