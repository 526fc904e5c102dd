"""Limits of the server: the queue, bodies that are still being sent, and batches."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.http.servers import Clients, Server, encode_image, encode_multipart, run_server

PNG = encode_image()


@pytest.fixture(scope="module")
def small_queue(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes 8 images at once and lets a batch wait for a quarter of a second."""
    flags = "--queue-size 8 --batch-milliseconds 250 --batch-size 64 --max-request-bytes 1000000"
    with run_server(small_model, tmp_path_factory.mktemp("server"), *flags.split()) as running:
        yield running


def test_full_queue_is_refused_and_recovers(small_queue: Server) -> None:
    """Of 24 images at once, some are scored and the others refused with 429 at once."""
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: small_queue.request("/predict", PNG), range(24)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 8
    assert all("try again" in answer["reason"] for status, answer in answers if status == 429)
    assert small_queue.predict(PNG)["label"]


def test_refusal_says_when_to_try_again(small_queue: Server) -> None:
    """A response with 429 has a header Retry-After."""
    body, kind = encode_multipart({str(number): PNG for number in range(8)})
    with ThreadPoolExecutor(1) as pool, small_queue.connect() as connection:
        first = pool.submit(small_queue.request, "/predict", body, kind)
        while small_queue.read_metric("trialrun_waiting_images") < 8:
            assert not first.done()
        connection.request("POST", "/predict", PNG, {"Content-Type": "image/png"})
        response = connection.getresponse()
        assert (response.status, response.getheader("Retry-After")) == (429, "1")
        assert first.result()[0] == 200


def test_images_of_several_requests_share_a_batch(small_queue: Server) -> None:
    """Eight requests at once take fewer than eight batches."""
    before = small_queue.read_metric("trialrun_batch_images_count")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: small_queue.request("/predict", PNG), range(8)))
    assert [status for status, _ in answers] == [200] * 8
    assert small_queue.read_metric("trialrun_batch_images_count") - before < 5


def send_raw(server: Server, head: str, chunks: list[bytes]) -> str:
    """Send a request piece by piece; return the start of the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        for chunk in chunks:
            connection.sendall(chunk)
        return connection.recv(4096).decode()


HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.mark.slow
def test_endless_body_is_refused_before_its_end(small_queue: Server) -> None:
    """A chunked body over the limit gets 413 while the client is still sending."""
    chunk = b"40000\r\n" + bytes(0x40000) + b"\r\n"
    head = HEAD + "Transfer-Encoding: chunked\r\n\r\n"
    response = send_raw(small_queue, head, [chunk] * 100)
    assert response.startswith("HTTP/1.1 413 ")


def test_client_that_asks_first_sends_no_large_body(small_queue: Server) -> None:
    """With `Expect: 100-continue`, the response is 413 and nothing is read."""
    head = HEAD + "Content-Length: 99000000\r\nExpect: 100-continue\r\n\r\n"
    assert send_raw(small_queue, head, []).startswith("HTTP/1.1 413 ")


def test_client_that_leaves_does_not_disturb_others(small_queue: Server) -> None:
    """A body that ends early, and a response that is not read, leave the queue empty."""
    for rest in (b"abc", PNG):
        with socket.create_connection(("127.0.0.1", small_queue.port)) as connection:
            connection.sendall(f"{HEAD}Content-Length: {len(PNG)}\r\n\r\n".encode() + rest)
    assert small_queue.predict(PNG)["label"]
    assert small_queue.read_metric("trialrun_waiting_images") == 0


def test_malformed_requests_do_not_end_the_server(small_queue: Server) -> None:
    """Broken HTTP and headers without end are refused."""
    for head in ("\x00\x01\r\n\r\n", "GET / HTTP/1.1\r\n" + "a: " + "b" * 100_000 + "\r\n\r\n"):
        assert send_raw(small_queue, head, []).startswith("HTTP/1.1 400 ")
    assert small_queue.predict(PNG)["label"]


def test_no_request_fails_under_load(server: Server) -> None:
    """Sixteen clients get whole responses only."""
    clients = Clients(server, 16)
    while len(clients.answers) < 300 and not (clients.failures or clients.refused):
        time.sleep(0.01)
    clients.stop()
    assert clients.failures == []
    assert clients.refused == []
