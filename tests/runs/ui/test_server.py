"""The process of MLflow's UI: its port, its address and its end."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import psutil
import pytest

from tests.processes import ForkedProgram, run_program

COMMAND = ["python", "-m", "trialrun", "ui", "--json"]


@contextmanager
def run_ui(folder: Path, *flags: str) -> Iterator[tuple[ForkedProgram, Path]]:
    """Run `trialrun ui` in the block; yield it and the file of its output."""
    output = folder / "stdout"
    output.touch()
    process = ForkedProgram([*COMMAND, "--port", "0", *flags], stdout=output)
    try:
        yield process, output
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


def read_address(process: ForkedProgram, output: Path) -> str:
    """Wait until the address is printed; return it."""
    deadline = time.monotonic() + 120
    while not (text := output.read_text()).endswith("\n"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return str(json.loads(text)["address"])


def wait_for_children(process: ForkedProgram) -> list[psutil.Process]:
    """Wait until the server's process has started; return all descendants."""
    deadline = time.monotonic() + 60
    while not (children := psutil.Process(process.pid).children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return children


def test_taken_port_is_an_error(store: str) -> None:
    """The server is not started, and the hint names a way out."""
    assert store
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        completed = run_program([*COMMAND, "--port", str(port)], timeout=60)
    assert completed.returncode == 2
    lines = completed.stderr.splitlines()
    assert lines[0].startswith(f"Error: InvalidParameterError: port={port} cannot be used: ")
    assert "--port" in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_server_and_its_workers(
    store: str, tmp_path: Path, number: signal.Signals
) -> None:
    """The exit code is 0, and no process remains."""
    assert store
    with run_ui(tmp_path) as (process, output):
        assert read_address(process, output).startswith("http://127.0.0.1:")
        children = wait_for_children(process)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not any(child.is_running() for child in children)


@pytest.mark.slow
def test_signal_before_the_server_answers_stops_it(store: str, tmp_path: Path) -> None:
    """Nothing is announced, and no process remains."""
    assert store
    with run_ui(tmp_path) as (process, output):
        children = wait_for_children(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not any(child.is_running() for child in children)
        assert output.read_text() == ""


@pytest.mark.slow
def test_view_of_a_tracking_server_is_announced_at_once(store: str, tmp_path: Path) -> None:
    """That server has the page: no other is started, and the command ends.

    The password in the address of the store is not printed.
    """
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    client.create_run(experiment.experiment_id)
    with run_ui(tmp_path) as (process, output):
        address = read_address(process, output).partition("/#")[0]
        uri = address.replace("//", "//me:secret@")
        completed = run_program(COMMAND, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, timeout=60)
    assert completed.returncode == 0, completed.stderr
    shown = json.loads(completed.stdout)
    assert shown["address"].startswith(address)
    assert shown["has_view"]
    assert "secret" not in completed.stdout + completed.stderr
