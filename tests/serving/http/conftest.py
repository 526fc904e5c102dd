"""A server of a small model, which the tests of a file share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.http.servers import Server, run_server, write_small_model


@pytest.fixture(scope="package")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory."""
    return write_small_model(tmp_path_factory.mktemp("served") / "colors")


@pytest.fixture(scope="package")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small limits on sizes."""
    flags = ("--max-request-bytes", "200000", "--max-pixels", "1000000", "--queue-size", "64")
    with run_server(small_model, tmp_path_factory.mktemp("server"), *flags) as running:
        yield running
