"""The end of the server: what it has taken is finished."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.http.servers import Clients, encode_image, encode_multipart, run_server


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_under_load_finishes_what_was_taken(
    small_model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """No response is cut or an error; the exit code is 0, and the log has nothing else."""
    with run_server(small_model, tmp_path / "server") as server:
        clients = Clients(server, 8)
        while len(clients.answers) < 50:
            time.sleep(0.01)
        server.process.send_signal(number)
        clients.join()
        assert server.process.wait(30) == 0
        lines = server.log.read_text().splitlines()
    assert clients.failures == []
    assert lines == ["Stopped; all requests that were taken are finished"]


@pytest.mark.slow
def test_slow_requests_are_finished_after_the_signal(small_model: Path, tmp_path: Path) -> None:
    """Requests that wait for their batch when the signal comes get their scores."""
    flags = ("--batch-milliseconds", "1000", "--batch-size", "64")
    with run_server(small_model, tmp_path / "server", *flags) as server, ThreadPoolExecutor() as p:
        body, kind = encode_multipart({str(number): encode_image() for number in range(8)})
        answers = [p.submit(server.request, "/predict", body, kind) for _ in range(2)]
        while server.read_metric("trialrun_waiting_images") < 16:
            time.sleep(0.01)
        assert server.stop() == 0
        assert [answer.result()[0] for answer in answers] == [200, 200]


@pytest.mark.slow
def test_second_signal_ends_the_server_at_once(small_model: Path, tmp_path: Path) -> None:
    """A request whose body does not come delays the end only until then."""
    flags = ("--stop-seconds", "60")
    with (
        run_server(small_model, tmp_path / "server", *flags) as server,
        server.connect() as connection,
    ):
        headers = {"Content-Length": "9", "Content-Type": "image/png"}
        connection.request("POST", "/predict", headers=headers)  # the body never comes
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 75
        assert "A second signal" in server.log.read_text()
