"""Tests of the creation of a store beside the loading of modules."""

import importlib
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from tests.mlflow_client.databases import address
from trialrun.mlflow_client import create_store_early, early_creation
from trialrun.mlflow_client.schema import is_ready
from trialrun.mlflow_client.sqlite import connect_file, read_schema

_LOADS = """
from trialrun.mlflow_client import create_store_early, early_creation

early_creation.count_threads = lambda: 2  # whatever this machine has
with create_store_early():
    pass
"""
_FAILS = """
import sys
from trialrun.mlflow_client import create_store_early, early_creation

early_creation.count_threads = lambda: 2
try:
    with create_store_early():
        raise KeyboardInterrupt
except KeyboardInterrupt:
    sys.exit(7)
"""


def run(program: str, uri: str, folder: Path) -> int:
    """Run a program in a folder, with the address of a store unless it is empty."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    environment.pop("MLFLOW_RUN_ID", None)
    return subprocess.run([sys.executable, "-c", program], env=environment, cwd=folder).returncode


def check_ready(path: Path) -> None:
    """Check that MLflow creates nothing more in the database."""
    with closing(connect_file(path)) as database:
        assert is_ready(read_schema(database))


def test_store_is_complete_after_the_block(tmp_path: Path) -> None:
    """The block itself opens no store; folders are created too."""
    path = tmp_path / "new" / "folder" / "mlflow.db"
    assert run(_LOADS, address(path), tmp_path) == 0
    check_ready(path)


def test_default_is_the_store_of_mlflow(tmp_path: Path) -> None:
    """A file in the current folder."""
    assert run(_LOADS, "", tmp_path) == 0
    check_ready(tmp_path / "mlflow.db")


def test_store_that_cannot_be_created_is_left_to_the_client(tmp_path: Path) -> None:
    """It raises the error; the block does not."""
    (tmp_path / "file").touch()
    assert run(_LOADS, address(tmp_path / "file" / "mlflow.db"), tmp_path) == 0


def test_interrupted_block_waits_for_its_process(tmp_path: Path) -> None:
    """The error is raised, and the store is missing or complete."""
    assert run(_FAILS, address(tmp_path / "mlflow.db"), tmp_path) == 7
    if (tmp_path / "mlflow.db").exists():
        with closing(connect_file(tmp_path / "mlflow.db")) as database:
            schema = read_schema(database)
        assert is_ready(schema) or not schema.tables


@pytest.mark.parametrize("case", ["loaded", "existing", "server", "memory", "run", "one core"])
def test_no_process_is_started_without_use(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow is loaded, or the store needs no creation, or nothing runs beside the block."""
    uris = {"server": "http://127.0.0.1:1", "memory": "sqlite://"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uris.get(case, address(tmp_path / "mlflow.db")))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    if case == "loaded":
        importlib.import_module("mlflow")
    else:
        monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    if case == "existing":
        (tmp_path / "mlflow.db").touch()
    elif case == "run":
        monkeypatch.setenv("MLFLOW_RUN_ID", "0")
    monkeypatch.setattr(early_creation, "count_threads", lambda: 1 if case == "one core" else 2)

    def fail(*_arguments: object, **_options: object) -> NoReturn:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with create_store_early():
        pass
