"""The process of MLflow's server: started on loopback, and stopped with all its children."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from trialrun.errors import InvalidParameterError, TrackingError
from trialrun.files import scratch_directory
from trialrun.signals import STOP_SIGNALS

_HOST = "127.0.0.1"
_COMMAND = ("-m", "mlflow", "server", "--workers", "1")
_START_SECONDS, _STOP_SECONDS, _POLL_SECONDS = 120.0, 10.0, 0.1
_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen processes for GenAI's jobs
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class MlflowServer:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
        self.address = address
        self.is_stopping = False
        self._process, self._log = process, log

    def wait_until_ready(self) -> bool:
        """Wait until the server answers; return False if a signal has stopped it before.

        Raises:
            TrackingError: The server has ended, or does not answer in time.
        """
        import requests

        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if requests.get(f"{self.address}/health", timeout=5).ok:
                    return True
            time.sleep(_POLL_SECONDS)
        if self.is_stopping:
            return False
        raise TrackingError(
            f"MLflow's server did not start: {self._read_last_line()}",
            "`trialrun doctor` checks the store and the installation.",
        )

    def wait_until_stopped(self) -> None:
        """Wait until a signal has stopped the server.

        Raises:
            TrackingError: It has ended by itself.
        """
        code = self._process.wait()
        if not self.is_stopping:
            raise TrackingError(
                f"MLflow's server ended with code {code}: {self._read_last_line()}",
                "Start it again.",
            )

    def stop(self) -> None:
        """Ask the server to stop; the second time, end it at once."""
        self._send(signal.SIGKILL if self.is_stopping else signal.SIGTERM)
        self.is_stopping = True

    def end(self) -> None:
        """Stop the server and its workers, and end those that do not react."""
        self._send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        self._send(signal.SIGKILL)  # workers that outlive the server
        self._process.wait()

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies
            os.killpg(self._process.pid, number)

    def _read_last_line(self) -> str:
        lines = self._log.read_text("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


@contextmanager
def run_mlflow_server(uris: Sequence[str], port: int) -> Iterator[MlflowServer]:
    """Run MLflow's server on the stores `uris` (runs, and models if they differ) in the block.

    The stop signals stop the server, so that the block can end.

    Raises:
        InvalidParameterError: The port is taken.
    """
    port = _find_port(port)
    with scratch_directory() as scratch, _Signals() as signals:
        log = scratch / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *_COMMAND, "--host", _HOST, "--port", str(port)],
                env={**os.environ, **_SETTINGS, **_name_stores(uris)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches this process only, which then stops it
            )
        server = MlflowServer(process, f"http://{_HOST}:{port}", log)
        try:
            signals.stop_on_signal(server)
            yield server
        finally:
            server.end()


def _name_stores(uris: Sequence[str]) -> dict[str, str]:
    """Return the variables that name the stores: a command line would show their passwords."""
    names = ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI")
    return dict(zip(names, uris, strict=False))


def _find_port(port: int) -> int:
    """Return a port that is free now: `port`, or any if it is 0."""
    try:
        with socket.create_server((_HOST, port)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise InvalidParameterError(
            f"port={port} cannot be used: {error.strerror}",
            "Choose another --port; 0 takes a free one.",
        ) from None


class _Signals:
    """Handles the stop signals in a block; one that arrives before the server is remembered.

    The command line ends a process that takes long after a signal. It learns of signals from the
    wakeup descriptor, which is therefore unset.
    """

    def __init__(self) -> None:
        self._server: MlflowServer | None = None
        self._has_arrived = False

    def stop_on_signal(self, server: MlflowServer) -> None:
        """Stop the server when a signal arrives."""
        self._server = server
        if self._has_arrived:
            server.stop()

    def __enter__(self) -> "_Signals":
        self._descriptor = signal.set_wakeup_fd(-1)
        self._handlers = {
            number: signal.signal(number, self._handle)
            for number in STOP_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._has_arrived = True
        if self._server is not None:
            self._server.stop()
