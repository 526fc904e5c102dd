"""Tests of the check of a tracking server, against servers that answer in many ways."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.processes import ForkedProgram
from tests.servers import find_free_port, start_server
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, describe_store, server
from trialrun.mlflow_client.server import check_server

PAGE = "<!doctype html><html><title>Sign in</title></html>"


@pytest.mark.parametrize("version", ["2.22.0", "1.30.1", "3.0.0rc1"])
def test_older_server_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has both versions; nothing is asked of the server's API."""
    with start_server(500, version=version) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match=f"has MLflow {version}") as raised:
            connect_client()
    assert "Upgrade the server to MLflow 3.0.0 or newer" in raised.value.hint


@pytest.mark.parametrize("version", ["3.0.0", "3.17.2\n", "4.0.0.dev0"])
def test_version_of_a_server_is_returned(version: str) -> None:
    """Newer servers than the client are not refused."""
    with start_server(200, version=version) as port:
        assert str(check_server(f"http://127.0.0.1:{port}/")) == version.strip()


@pytest.mark.parametrize("text", [PAGE, "", "{}"])
def test_server_without_a_version_is_asked_for_experiments(text: str) -> None:
    """Some proxies answer the request for the version themselves."""
    with start_server(200, version=text) as port:
        uri = f"http://127.0.0.1:{port}"
        assert check_server(uri) is None
        assert describe_store(uri).message == "MLflow's version is unknown"


@pytest.mark.parametrize(
    ("status", "text", "message", "hint"),
    [
        (200, PAGE, "not as an MLflow server", "check port and path"),
        (404, PAGE, "status 404", "check port and path"),
        (405, "", "status 405", "check port and path"),
        (401, "Not authenticated.", "status 401", "MLFLOW_TRACKING_PASSWORD"),
        (403, "Permission denied", "status 403", "administrator"),
        (502, PAGE, "status 502", "--offline"),
    ],
)
def test_answer_of_another_program_is_one_error(
    status: int, text: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has no HTML."""
    with start_server(status, text) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match=message) as raised:
            connect_client()
    assert hint in raised.value.hint
    assert "<" not in str(raised.value)


def test_refused_connection_names_the_remedies() -> None:
    """The address of the request is not repeated in the reason."""
    uri = f"http://boss:s3cret@127.0.0.1:{find_free_port()}"
    with pytest.raises(TrackingError, match="Connection refused") as raised:
        check_server(uri)
    assert "MLFLOW_TRACKING_URI" in raised.value.hint
    assert "--offline" in raised.value.hint
    assert "s3cret" not in str(raised.value)
    assert len(str(raised.value)) < 160


def test_unknown_host_is_one_error() -> None:
    """The name has no address."""
    with pytest.raises(TrackingError, match="does not answer") as raised:
        check_server("http://no-such-host.invalid:5000")
    assert "MLFLOW_TRACKING_URI" in raised.value.hint


@pytest.fixture
def silent_address() -> Iterator[str]:
    """The address of a socket that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def dropping_address() -> Iterator[str]:
    """The address of a socket with a full queue: Linux drops the packets of new connections."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("name", ["silent_address", "dropping_address"])
def test_silent_host_ends_in_one_error(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes after one wait, without retries."""
    monkeypatch.setattr(server, "_TIMEOUTS", (0.5, 0.5))
    start = time.monotonic()
    with pytest.raises(TrackingError, match="timed out"):
        check_server(request.getfixturevalue(name))
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_silent_hosts_end_a_command_within_30_seconds(
    silent_address: str, dropping_address: str
) -> None:
    """The waits are long enough for a busy server, and short enough for a user."""
    start = time.monotonic()
    command = [sys.executable, "-m", "trialrun", "history", "any"]
    programs = [
        ForkedProgram(
            command, env=os.environ | {"MLFLOW_TRACKING_URI": address}, stderr=subprocess.PIPE
        )
        for address in (silent_address, dropping_address)
    ]
    for program in programs:
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 5
        assert "--offline" in errors
    assert time.monotonic() - start < 30
