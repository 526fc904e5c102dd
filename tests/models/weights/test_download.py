"""Downloads from a server on this machine: complete, with another content, and too slow."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trialrun.models.weights.download import download_file

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Sends the content; below /slow only its first half."""

    def do_GET(self) -> None:
        """Answer a request."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2])
        if self.path == "/slow":
            self.wfile.flush()
            time.sleep(1.5)
        else:
            self.wfile.write(CONTENT[len(CONTENT) // 2 :])

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_file_is_complete_and_verified(server: str, tmp_path: Path) -> None:
    """A file with the expected sha256 appears, and a file with another one does not."""
    path = tmp_path / "new" / "weights.pth"
    with pytest.raises(ValueError, match=SHA256):
        download_file(f"{server}/x", path, sha256_prefix="0000")
    assert not list(path.parent.iterdir())
    download_file(f"{server}/x", path, sha256_prefix=SHA256[:8], seconds=10)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [CONTENT]


def test_slow_download_ends_in_time_without_a_file(server: str, tmp_path: Path) -> None:
    """A server that stops sending is given up after the limit, and nothing is left behind."""
    started = time.monotonic()
    with pytest.raises(OSError, match=r"longer than|timed out"):
        download_file(f"{server}/slow", tmp_path / "w.pth", sha256_prefix=SHA256[:8], seconds=0.3)
    assert time.monotonic() - started < 1.2
    time.sleep(0.5)
    assert not list(tmp_path.iterdir())
