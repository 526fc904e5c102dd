"""Tracking servers: passwords in URLs, TLS, and artifacts on the server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes
from tests.processes import run_program
from tests.servers import copy_empty_store, find_free_port, run_mlflow_server, start_server
from tests.tracking.test_conflicts import check_datasets
from trialrun.cli import run_cli as command
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, translate_tracking_errors
from trialrun.registry import find_model_folder

SECRET = "s3cret"
TINY: dict[str, Any] = {"model": "shufflenet_v2_x0_5", "batch_size": 8, "epochs": 1}


@pytest.fixture(scope="module")
def server(initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an MLflow server that stores artifacts; return its address."""
    folder = tmp_path_factory.mktemp("server")
    copy_empty_store(initialised_store, folder)
    with run_mlflow_server(folder) as address:
        yield address


@pytest.fixture
def tracked(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the server as the tracking store, with a password in the URL."""
    uri = f"http://boss:{SECRET}@{server}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return uri


@pytest.fixture(scope="module")
def registered(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Register version 1 of `colors` on the server; return its training images."""
    colors = write_classes(tmp_path_factory.mktemp("images"), {"blue": 12, "red": 12})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://{server}")
        trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    return colors


@pytest.mark.slow
def test_processes_log_the_same_new_dataset_at_once(server: str, tmp_path: Path) -> None:
    """The server passes its database's conflicts on, and each process tries again."""
    check_datasets(f"http://{server}", 20, tmp_path)


@pytest.mark.slow
def test_no_password_is_shown(
    tracked: str, registered: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runs and histories print URLs without it; standard output has only the result."""
    test = write_classes(tmp_path / "test", {"blue": 3, "red": 3}, seed=99)
    arguments = ["colors", "--version", "1", "--data", str(test), "--min", "accuracy=0", "--json"]
    assert command(["promote", *arguments]) == 0
    assert command(["history", "colors", "--json"]) == 0
    out, error = capfd.readouterr()
    assert SECRET not in out + error
    promoted, history = (json.loads(line) for line in out.splitlines())
    assert history["periods"][0]["run_id"] == promoted["run_id"]
    assert history["periods"][0]["run_url"].startswith(f"http://{tracked.rpartition('@')[2]}/#/")


def test_no_password_is_shown_for_an_unreachable_server(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow's error message contains the URL of the request."""
    uri = f"http://boss:{SECRET}@127.0.0.1:{find_free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        pytest.raises(TrackingError, match="request to http") as raised,
        translate_tracking_errors("no"),
    ):
        mlflow.MlflowClient().search_experiments()
    assert SECRET not in str(raised.value)
    assert command(["history", "colors"]) == 5
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_downloaded_models_are_removed_at_exit(
    tracked: str, registered: Path, tmp_path: Path
) -> None:
    """A process that downloads a model from a server deletes it at exit."""
    code = "import trialrun, sys; print(len(list(trialrun.load_model(sys.argv[1]).parameters())))"
    command = [sys.executable, "-c", code, "models:/colors/1"]
    done = run_program(command, env=os.environ | {"TMPDIR": str(tmp_path)}, timeout=120)
    assert int(done.stdout) > 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_on_this_machine_is_not_copied(store: str, colors: Path) -> None:
    """A model whose artifacts are local files is read in place."""
    trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    folder = find_model_folder("models:/colors/1")
    assert Path(store.removeprefix("sqlite:///")).parent in folder.parents


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Create a self-signed certificate for 127.0.0.1, with its key."""
    path = tmp_path / "server.pem"
    arguments = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        str(path),
    ]
    arguments += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    path.write_text(path.read_text() + made.stdout)
    return path


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("how", ["INSECURE_TLS", "SERVER_CERT_PATH"])
def test_tls_settings_of_mlflow_are_used(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A server with a self-signed certificate is reached with MLflow's variables."""
    with start_server(200, certificate=certificate) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match="CERTIFICATE_VERIFY_FAILED"):
            connect_client()
        value = "true" if how == "INSECURE_TLS" else str(certificate)
        monkeypatch.setenv(f"MLFLOW_TRACKING_{how}", value)
        assert connect_client().search_experiments() == []


def test_hint_for_a_missing_password_names_the_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status 401 is not reported as an unreachable server."""
    with start_server(401) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError) as raised:
            connect_client()
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in raised.value.hint


def test_a_call_restores_the_mlflow_settings(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables that a call sets are removed; those of the caller are kept."""
    names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT")
    monkeypatch.delenv(names[0], raising=False)
    monkeypatch.setenv(names[1], "false")
    trialrun.train(train_data=str(colors), **TINY)
    assert [os.environ.get(name) for name in names] == [None, "false"]


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("no such table: schema", "server is up"),
        ("No such artifact: /data/mlruns/7/model", "server is up"),
        ("Detected out-of-date database schema (found version a)", "mlflow db upgrade"),
        ("The filesystem tracking backend (e.g., './mlruns') is in", "no longer writes"),
        ("(sqlite3.OperationalError) database is locked", "Another process"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "writable"),
    ],
)
def test_hints_fit_the_message(message: str, hint: str) -> None:
    """A word in a path or a table name does not decide the hint."""
    with pytest.raises(TrackingError) as raised, translate_tracking_errors("no"):
        raise mlflow.MlflowException(message)
    assert hint in raised.value.hint


_WITHOUT_BOTO3 = """
import sys
sys.modules["boto3"] = sys.modules["botocore"] = None  # as where they are not installed
from trialrun.cli import run_cli
sys.exit(run_cli(sys.argv[1:]))
"""


def run_without_boto3(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command line in a process that cannot import boto3."""
    return run_program([sys.executable, "-c", _WITHOUT_BOTO3, *arguments], timeout=120)


@pytest.mark.slow
def test_hint_for_a_model_on_s3_without_boto3_names_the_package(store: str, colors: Path) -> None:
    """A missing package is not reported as a bug in trialrun."""
    done = run_without_boto3("score", "s3://bucket/model", str(colors), "--output", "a.csv")
    assert done.returncode == 5, done.stderr
    assert "Hint: Install the package boto3" in done.stderr


@pytest.mark.slow
def test_hint_for_training_into_s3_without_boto3_names_the_package(
    store: str, colors: Path
) -> None:
    """The error is raised at the first artifact of the experiment."""
    mlflow.MlflowClient(store).create_experiment("far", artifact_location="s3://bucket/far")
    data = ["--train-data", str(colors), "--epochs", "1", "--batch-size", "8"]
    done = run_without_boto3("train", *data, "--experiment", "far")
    assert done.returncode == 5, done.stderr
    assert "Hint: Install the package boto3" in done.stderr
