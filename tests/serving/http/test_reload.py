"""`--reload-alias`: the version that the alias moves to replaces the served one."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.http.servers import (
    Clients,
    encode_image,
    register_versions,
    run_server,
    write_small_model,
)

ADDRESS = "models:/colors@champion"
FLAGS = ("--reload-alias", "--reload-seconds", "0.2")


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_alias_moves_without_a_failed_request(store: str, tmp_path: Path) -> None:
    """Clients get responses of the first version, then of the second, and no error."""
    folders = [write_small_model(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    client = register_versions(store, folders)
    with run_server(ADDRESS, tmp_path / "server", *FLAGS) as server:
        clients = Clients(server, 8)
        try:
            wait_until(lambda: len(clients.answers) > 20)
            client.set_registered_model_alias("colors", "champion", "2")
            wait_until(lambda: clients.answers[-1]["model"]["version"] == "2")
            client.set_registered_model_alias("colors", "champion", "1")
            wait_until(lambda: clients.answers[-1]["model"]["version"] == "1")
        finally:
            clients.stop()
        assert server.read_metric('trialrun_reloads_total{outcome="loaded"}') == 2
    assert clients.failures == []
    assert clients.refused == []
    versions = [answer["model"]["version"] for answer in clients.answers]
    assert {"1", "2"} == set(versions)


@pytest.mark.slow
def test_version_that_cannot_be_loaded_is_not_served(store: str, tmp_path: Path) -> None:
    """A damaged version and a deleted alias leave the served version as it is."""
    folders = [write_small_model(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)]
    weights = folders[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    client = register_versions(store, folders)
    with run_server(ADDRESS, tmp_path / "server", *FLAGS) as server:
        client.set_registered_model_alias("colors", "champion", "2")
        failed = 'trialrun_reloads_total{outcome="failed"}'
        wait_until(lambda: server.read_metric(failed) == 1)
        client.delete_registered_model_alias("colors", "champion")
        wait_until(lambda: "cannot be looked up" in server.log.read_text())
        status, answer = server.request("/predict", encode_image())
        assert (status, answer["model"]["version"]) == (200, "1")
        client.set_registered_model_alias("colors", "champion", "3")
        wait_until(lambda: server.request("/predict", encode_image())[1]["model"]["version"] == "3")
        assert server.read_metric(failed) == 1  # a version is tried once
