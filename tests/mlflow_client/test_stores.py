"""Tests of the description of stores, and of file stores."""

from pathlib import Path

import pytest

from tests.mlflow_client.databases import add_experiment, address, create_part
from tests.servers import find_free_port, start_server
from trialrun.cli import run_cli
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, describe_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder; no tracking store is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_leftover_file_store_is_explained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes MLflow's default a store that MLflow refuses to write."""
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").touch()
    database = f"sqlite:///{folder}/mlflow.db"
    assert run_cli(["history", "any"]) == 5
    _, error = capsys.readouterr()
    assert f"{folder}/mlruns is a file store of a former MLflow" in error
    assert f"`mlflow migrate-filestore --source {folder}/mlruns --target {database}`" in error
    assert f"set MLFLOW_TRACKING_URI={database}." in error
    assert len(error.strip().splitlines()) == 2
    (folder / "mlflow.db").touch()  # as after the migration
    assert run_cli(["history", "any"]) == 5
    assert f"Hint: To use {folder}/mlflow.db, set" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["runs here", "{}/runs here", "file://{}/runs%20here"])
def test_folder_as_a_store_is_refused(
    folder: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path and a file URI are read alike, and nothing is created."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", form.format(folder))
    with pytest.raises(TrackingError, match=f"{folder}/runs here") as raised:
        connect_client()
    assert f"set MLFLOW_TRACKING_URI=sqlite:///{folder}/mlflow.db" in raised.value.hint
    assert list(folder.iterdir()) == []


def test_usable_stores_have_no_remedy(folder: Path, store: str) -> None:
    """A missing file is created by a run, so it is not an error; the check creates nothing."""
    present = describe_store(store)
    assert (present.kind, present.is_reachable, present.is_writable) == ("sqlite", True, True)
    assert (present.message, present.remedy) == ("the schema is up to date", "")
    missing = describe_store("sqlite:///sub/mlflow.db")
    assert (missing.address, missing.remedy) == (f"sqlite:///{folder}/sub/mlflow.db", "")
    assert not (folder / "sub").exists()
    with start_server(200, version="3.4.0") as port:
        answering = describe_store(f"http://me:s3cret@127.0.0.1:{port}")
    assert (answering.version, answering.address) == ("3.4.0", f"http://127.0.0.1:{port}")


def test_unusable_stores_have_a_remedy(folder: Path) -> None:
    """The message and the remedy are those of the error of a command."""
    create_part(address(folder / "older.db"), 3)
    add_experiment(address(folder / "older.db"))
    older = describe_store("sqlite:///older.db")
    assert older.is_reachable
    assert "older MLflow" in older.message
    assert "mlflow db upgrade" in older.remedy
    down = describe_store(f"http://127.0.0.1:{find_free_port()}")
    assert (down.kind, down.is_reachable) == ("server", False)
    assert "Connection refused" in down.message
    files = describe_store("mlruns")
    assert (files.kind, files.is_reachable, bool(files.remedy)) == ("files", False, True)
