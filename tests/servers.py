"""Servers on loopback for tests: MLflow's own, and simple ones that answer as told."""

import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.processes import ForkedProgram

_START_SECONDS = 180


def find_free_port() -> int:
    """Return an unused port on loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def run_mlflow_server(folder: Path, python: str = sys.executable) -> Iterator[str]:
    """Run an MLflow server that stores everything in `folder`; yield its host and port.

    `python` is the interpreter of an environment with the version of MLflow to run.
    """
    port = find_free_port()
    arguments = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    arguments += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    variables = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [python, "-m", "mlflow", "server", *arguments],
            env=variables | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONPATH": ""},
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
            yield f"127.0.0.1:{port}"
        finally:
            # Earlier versions of MLflow leave gunicorn running if only they are terminated.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def copy_empty_store(initialised: Path, folder: Path) -> None:
    """Copy an empty store to the file that `run_mlflow_server` uses; its artifacts are served."""
    path = folder / "mlflow.db"
    shutil.copy(initialised, path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")


def wait_until_healthy(address: str, process: "subprocess.Popen[bytes] | ForkedProgram") -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{address} does not answer")


class _Handler(BaseHTTPRequestHandler):
    """Answers each path with a status and a text, and other paths with those of the empty path."""

    def do_GET(self) -> None:
        """Answer the request."""
        answers = self.server.answers  # type: ignore[attr-defined]
        status, text = answers.get(self.path.partition("?")[0], answers[""])
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET  # noqa: N815 - the base class's word

    def log_message(self, *_arguments: object) -> None:
        """Do nothing."""


@contextmanager
def start_server(
    status: int, text: str = "{}", *, version: str | None = None, certificate: Path | None = None
) -> Iterator[int]:
    """Run a server with the same answer to all requests; yield its port.

    Args:
        status: The status of the answer.
        text: The text of the answer.
        version: The answer to the request for MLflow's version; by default as to all others.
        certificate: A file with a certificate and its key, for TLS.
    """
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    answers = {"": (status, text)} | ({} if version is None else {"/version": (200, version)})
    listening.answers = answers  # type: ignore[attr-defined]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
    serve = partial(listening.serve_forever, poll_interval=0.01)  # the longest wait at the end
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(listening.server_address[1])
    finally:
        listening.shutdown()
        listening.server_close()
