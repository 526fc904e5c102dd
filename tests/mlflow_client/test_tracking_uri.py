"""Tests of the addresses of stores."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import trialrun
from trialrun.errors import TrialrunError
from trialrun.mlflow_client.tracking_uri import (
    find_sqlite_path,
    find_store_kind,
    make_absolute,
    resolve_uris,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder with a space in its name; no tracking store is set."""
    path = tmp_path / "a folder"
    path.mkdir()
    monkeypatch.chdir(path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("sqlite:///a.db", "sqlite"),
        ("sqlite+pysqlite:////tmp/a.db", "sqlite"),
        ("postgresql+psycopg://me@host/db", "postgresql"),
        ("https://host:5000", "server"),
        ("mlruns", "files"),
        ("file:///tmp/mlruns", "files"),
        ("databricks", "other"),
        ("mysql://host/db", "other"),
    ],
)
def test_kind_follows_from_the_scheme(uri: str, kind: str) -> None:
    """The driver in a scheme does not matter."""
    assert find_store_kind(uri) == kind


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "http://host", "databricks"])
def test_addresses_without_a_file_stay_as_they_are(uri: str) -> None:
    """A database in memory has no path."""
    assert find_sqlite_path(uri) is None
    assert make_absolute(uri) == uri


@pytest.mark.parametrize("name", ["mlflow.db", "a b.db", "100%.db", "a%20b.db"])
def test_absolute_address_names_the_same_file(folder: Path, name: str) -> None:
    """SQLAlchemy decodes %20 in an address, so a name that holds % is encoded."""
    path = find_sqlite_path(f"sqlite:///sub/{name}?timeout=9")
    assert path is not None
    uri = make_absolute(f"sqlite:///sub/{name}?timeout=9")
    assert uri.endswith("?timeout=9")
    assert find_sqlite_path(uri) == folder / path


def test_default_store_is_kept_when_the_folder_changes(folder: Path) -> None:
    """The environment, and so a child process, gets the address of the first folder."""
    [uri] = resolve_uris()
    assert os.environ["MLFLOW_TRACKING_URI"] == uri == f"sqlite:///{folder}/mlflow.db"
    os.chdir(folder.parent)
    assert resolve_uris() == [uri]


def test_address_of_set_tracking_uri_is_made_absolute(folder: Path) -> None:
    """MLflow prefers it to the environment."""
    mlflow.set_tracking_uri("sqlite:///own.db")
    try:
        assert resolve_uris() == [f"sqlite:///{folder}/own.db"]
        assert mlflow.get_tracking_uri() == f"sqlite:///{folder}/own.db"
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def test_registry_of_its_own_is_made_absolute(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry may be in another database than the runs."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///models.db")
    assert resolve_uris() == [f"sqlite:///{folder}/{name}.db" for name in ("mlflow", "models")]
    assert os.environ["MLFLOW_REGISTRY_URI"] == f"sqlite:///{folder}/models.db"


def test_call_restores_the_callers_address(
    folder: Path, initialised_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook may change its folder and means the file there then."""
    (folder / "relative.db").write_bytes(initialised_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///relative.db")
    with pytest.raises(TrialrunError, match="missing"):
        trialrun.history("missing")
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///relative.db"


def test_project_finds_its_run_from_the_callers_folder(
    folder: Path, initialised_store: Path
) -> None:
    """`mlflow run` starts its child in the project's folder with the caller's relative address."""
    store = folder / "mlflow.db"
    store.write_bytes(initialised_store.read_bytes())
    run_id = mlflow.MlflowClient(f"sqlite:///{store}").create_run("0").info.run_id
    project = folder / "project"
    project.mkdir()
    code = (
        "from trialrun.mlflow_client.tracking_uri import make_absolute\n"
        "print(make_absolute('sqlite:///mlflow.db'))"
    )
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[2:]], "
    script += "cwd=sys.argv[1], check=True)"
    for known, expected in ((run_id, store), ("other", project / "mlflow.db")):
        done = subprocess.run(
            [sys.executable, "-c", script, str(project), code],
            env=os.environ | {"MLFLOW_RUN_ID": known},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == f"sqlite:///{expected}"
