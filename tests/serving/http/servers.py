"""Servers of small models for tests: real processes on free ports of loopback, always stopped."""

import http.client
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from PIL import Image

from tests.conftest import SMALL, make_network
from tests.processes import ForkedProgram
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.abstention import Abstention
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.weights.serialization import serialize_state

CLASSES = ("blue", "green", "red")
TOKEN = "0123456789abcdef-token"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    process: ForkedProgram
    log: Path

    @contextmanager
    def connect(self) -> Iterator[http.client.HTTPConnection]:
        """Connect in the block."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            yield connection
        finally:
            connection.close()

    def request(
        self,
        path: str,
        body: Any = None,
        kind: str | None = "application/octet-stream",
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send one request; return the status and the parsed JSON, or the text."""
        given = ({} if kind is None or body is None else {"Content-Type": kind}) | (headers or {})
        with self.connect() as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, given)
            response = connection.getresponse()
            text = response.read().decode()
        is_json = response.getheader("Content-Type", "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text

    def predict(self, image: bytes, query: str = "") -> dict[str, Any]:
        """Return the result of one image."""
        status, answer = self.request("/predict" + query, image)
        assert status == 200, answer
        result: dict[str, Any] = answer["images"][0]
        return result

    def read_metric(self, name: str) -> float:
        """Return a metric's value; 0 before it is set."""
        text = self.request("/metrics")[1]
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)]
        return float(values[0]) if values else 0.0

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(30)


@contextmanager
def run_server(
    model: str | Path, folder: Path, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run `trialrun serve` in the block."""
    folder.mkdir(exist_ok=True)
    output, log = folder / "stdout", folder / "stderr"
    output.write_text("")
    log.write_text("")
    command = ["python", "-m", "trialrun", "serve", str(model), "--port", "0", "--json", *flags]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    variables = store | dict(os.environ) | (environment or {})
    process = ForkedProgram(command, env=variables, stdout=output, stderr=log)
    try:
        yield Server(_read_port(process, output, log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def _read_port(process: ForkedProgram, output: Path, log: Path) -> int:
    deadline = time.monotonic() + _START_SECONDS
    while not (text := output.read_text()).endswith("\n"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return int(json.loads(text)["address"].rpartition(":")[2])


def make_abstention(threshold: float) -> Abstention:
    """Return what a model directory says of its threshold."""
    return Abstention(
        threshold=threshold,
        max_error=0.05,
        level=0.95,
        coverage=0.5,
        num_images=100,
        data_digest="0",
    )


def write_small_model(folder: Path, *, seed: int = 7, threshold: float | None = None) -> Path:
    """Write a trained model directory of three classes at 32 pixels.

    It abstains below `threshold`, if there is one.
    """
    network = make_network(SMALL, len(CLASSES), seed=seed)
    abstention = None if threshold is None else make_abstention(threshold)
    described = ModelDescription(SMALL, {}, CLASSES, Preprocessing(32), abstention=abstention)
    folder.mkdir(parents=True)
    write_model_directory(folder, described, serialize_state(network.state_dict()))
    return folder


def register_versions(store: str, folders: Sequence[Path]) -> mlflow.MlflowClient:
    """Register model directories as versions of `colors`; the first is the champion."""
    client = mlflow.MlflowClient(store)
    client.create_registered_model("colors")
    for folder in folders:
        client.create_model_version("colors", source=str(folder))
    client.set_registered_model_alias("colors", "champion", "1")
    return client


def encode_image(kind: str = "PNG", *, size: int = 40, seed: int = 0) -> bytes:
    """Return an image file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def encode_bomb(num_pixels: int) -> bytes:
    """Return a small PNG of many pixels."""
    file = io.BytesIO()
    Image.new("1", (num_pixels // 1000, 1000)).save(file, "PNG")
    return file.getvalue()


def encode_multipart(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Return a body of several files by name, and its content type."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n%s\r\n" % (name.encode(), data)
        for name, data in files.items()
    ]
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


class Clients:
    """Threads that send images until `stop`, and what they received."""

    def __init__(self, server: Server, num_clients: int) -> None:
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []  # a request without a whole response of status 200
        self.refused: list[str] = []  # a request of which the server took nothing
        self._is_stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(server, encode_image(seed=number)))
            for number in range(num_clients)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, server: Server, image: bytes) -> None:
        with server.connect() as connection:
            while not self._is_stopping.is_set() and self._send_once(connection, image):
                pass

    def _send_once(self, connection: http.client.HTTPConnection, image: bytes) -> bool:
        """Send a request; return whether the server goes on."""
        try:
            connection.request("POST", "/predict", image, {"Content-Type": "image/png"})
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            self.refused.append(repr(error))
            return False
        try:
            answer = json.loads(response.read())
        except (http.client.HTTPException, OSError, ValueError) as error:
            self.failures.append(repr(error))
            return False
        if response.status == 200:
            self.answers.append(answer)
        else:
            self.failures.append(f"{response.status} {answer}")
        return True

    def join(self) -> None:
        """Wait for the threads, which end by themselves once the server has."""
        for thread in self._threads:
            thread.join(30)

    def stop(self) -> None:
        """End the threads after their current request."""
        self._is_stopping.set()
        self.join()
