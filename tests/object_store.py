"""An object store for tests, behind a proxy that injects faults into its answers."""

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import fsspec
import pytest

SLOW, ERROR, RESET, SHORT, TRUNCATED = "slow", "500", "reset", "short", "truncated"
_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "date", "server")


@dataclass(slots=True)
class FaultyStore:
    """A bucket `data` of an object store; faults hit the next requests for bytes of an object.

    A SLOW answer comes after `slow_seconds`, a SHORT one ends in the middle, and a TRUNCATED one
    announces half of its bytes.
    """

    address: str
    client: Any
    slow_seconds: float = 3.0
    faults: list[str] = field(default_factory=list)
    repeats_last: bool = False
    num_requests: int = 0

    def put(self, name: str, content: bytes) -> str:
        """Store an object and return its address."""
        self.client.put_object(Bucket="data", Key=name, Body=content)
        return f"s3://data/{name}"

    def delete(self, name: str) -> None:
        """Delete an object."""
        self.client.delete_object(Bucket="data", Key=name)

    def next_fault(self) -> str:
        """Return the fault of the next request; empty text for none."""
        if not self.faults:
            return ""
        return self.faults[0] if self.repeats_last else self.faults.pop(0)


@contextmanager
def open_store() -> Iterator[FaultyStore]:
    """Start an object store with an empty bucket and a proxy before it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket="data")
    store = FaultyStore("", client)
    handler = type("Proxy", (_Proxy,), {"store": store, "backend": f"{host}:{port}"})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.daemon_threads = True
    thread = Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    store.address = f"http://127.0.0.1:{proxy.server_port}"
    try:
        yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        server.stop()


class _Proxy(BaseHTTPRequestHandler):
    """Forwards requests to `backend`; the faults of `store` change the answers."""

    store: FaultyStore
    backend: str

    def do_GET(self) -> None:
        self._forward()

    def do_HEAD(self) -> None:
        self._forward()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base
        """Print nothing."""

    def _forward(self) -> None:
        connection = http.client.HTTPConnection(self.backend)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        connection.request(self.command, self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        is_object = self.command == "GET" and "list-type" not in self.path
        fault = self.store.next_fault() if is_object else ""
        self.store.num_requests += is_object
        if fault == SLOW:
            time.sleep(self.store.slow_seconds)
        if fault != RESET:  # which closes the connection without an answer
            self._send(answer, body, fault)

    def _send(self, answer: http.client.HTTPResponse, body: bytes, fault: str) -> None:
        self.send_response(500 if fault == ERROR else answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        half = body[: len(body) // 2]
        body = {TRUNCATED: half, ERROR: b""}.get(fault, body)
        is_head = self.command == "HEAD"
        length = answer.getheader("Content-Length") if is_head else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if not is_head:
            self.wfile.write(half if fault == SHORT else body)


@pytest.fixture(scope="session")
def shared_store() -> Iterator[FaultyStore]:
    """Yield one object store for all tests."""
    with open_store() as store:
        yield store


@pytest.fixture
def store(shared_store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """Yield the object store without faults, as the one that s3:// addresses name."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_store.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    shared_store.num_requests = 0
    # fsspec keeps the connections to a store that other tests have opened.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield shared_store
    shared_store.faults, shared_store.repeats_last = [], False
