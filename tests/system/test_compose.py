"""The commands of compose.yaml on this machine, with a real PostgreSQL in place of the engine."""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sqlalchemy import create_engine, text

from tests.conftest import SMALL
from tests.servers import find_free_port, wait_until_healthy

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
ENTRYPOINT = str(ROOT / "docker" / "entrypoint.sh")

pytestmark = pytest.mark.slow


@pytest.fixture
def database(postgres: str) -> str:
    """The address of the server with the databases of compose.yaml, as `user@host:port`."""
    admin = create_engine(
        postgres.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    sql = COMPOSE["configs"]["create_databases"]["content"]
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE mlflow"))
        connection.execute(text(sql.partition("--")[0]))
    admin.dispose()
    return postgres.split("/")[2]


def read_command(service: str, replaced: dict[str, str]) -> list[str]:
    """Return a service's command with its variables' defaults, and other addresses and folders."""
    words = COMPOSE["services"][service]["command"]
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]
    for old, new in replaced.items():
        assert any(old in word for word in words), old
        words = [word.replace(old, new) for word in words]
    return [ENTRYPOINT, sys.executable, "-m", *words]


def make_environment(service: str, tmp_path: Path, **replaced: str) -> dict[str, str]:
    """Return a service's variables, with the password in a file."""
    secret = tmp_path / "secret"
    secret.write_text("not asked for")  # the server of the tests trusts every connection
    variables: dict[str, str] = COMPOSE["services"][service]["environment"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | variables | {"PGPASSWORD_FILE": str(secret)} | replaced


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[str]:
    """Run the command of the service `mlflow`; yield its address."""
    port = find_free_port()
    replaced = {
        "trialrun@db": database,
        "=/artifacts": f"={tmp_path / 'artifacts'}",
        "--port=5000": f"--port={port}",
        "--host=0.0.0.0": "--host=127.0.0.1",
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            read_command("mlflow", replaced),
            env=make_environment("mlflow", tmp_path),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def ask_experiments(server: str, host: str) -> int:
    """Return the status of a request that names the server `host`."""
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    request = urllib.request.Request(server + path, headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_worker_searches_with_server_and_database(
    server: str, database: str, tmp_path: Path
) -> None:
    """The server answers under its name in compose, no other; the worker registers a version."""
    assert ask_experiments(server, "mlflow:5000") == 200
    assert ask_experiments(server, "rebound.example") == 403
    command = read_command("worker", {"trialrun@db": database, "--trials=20": "--trials=1"})
    state = str(tmp_path / "state")
    done = subprocess.run(
        [*command, f"--model={SMALL}", "--epochs=1", "--learning-rate=1e-3:1e-2"],
        env=make_environment("worker", tmp_path, MLFLOW_TRACKING_URI=server, XDG_STATE_HOME=state),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "models:/digits/1" in done.stdout
    assert list((tmp_path / "artifacts").rglob("model.safetensors"))
