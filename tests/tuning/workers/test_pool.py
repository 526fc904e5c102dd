"""Searches with worker processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import trialrun
from tests.processes import run_program
from tests.tuning.conftest import settings


@pytest.mark.slow
def test_workers_use_the_pruner_of_the_search(store: str, colors: Path, tmp_path: Path) -> None:
    """With pruner `none`, two workers complete trials that would be pruned."""
    rates = (0.001, 0.0011, 0.0012, 0.0013, 0.0014, 0.1, 0.1, 0.1)
    file = tmp_path / "enqueued.json"
    file.write_text(json.dumps([{"learning_rate": rate} for rate in rates]))
    raw_settings = settings(
        colors, trials=9, epochs=2, batch_size=4, enqueue=str(file), workers=2, pruner="none"
    )
    result = trialrun.search(**raw_settings)
    assert (result.num_trials["complete"], result.num_trials["pruned"]) == (9, 0)


@contextmanager
def tracking_server(store: str) -> Iterator[str]:
    """Run an MLflow server on `store`; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command += [port, "--workers", "1"]
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # with its child processes
        server.wait(30)


@pytest.mark.slow
def test_workers_print_no_links(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would print links to runs, with the password of the server's URL."""
    raw_settings = settings(
        colors, trials=2, workers=2, storage=f"sqlite:///{tmp_path / 'optuna.db'}"
    )
    flags = [f"--{name.replace('_', '-')}={text}" for name, text in raw_settings.items()]
    command = [sys.executable, "-m", "trialrun", "search", "--json", *flags]
    with tracking_server(store) as url:
        _wait_for_server(url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("//", "//me:secret@"))
        done = run_program(command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["num_trials"]["complete"] == 2
    assert "trial-0" not in done.stdout


def _wait_for_server(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health"):
            return
        time.sleep(0.2)
    raise AssertionError("the server did not start")
