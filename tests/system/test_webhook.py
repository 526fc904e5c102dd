"""The examples that receive MLflow's webhooks, on their own and with a real MLflow server."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

from tests.servers import copy_empty_store, find_free_port, wait_until_healthy
from trialrun.registry.history import format_now

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "not to be guessed"
CREATED = {"entity": "model_version", "action": "created", "data": {"name": "m", "version": "3"}}
MOVED = {
    "entity": "model_version_alias",
    "action": "created",
    "data": {"name": "m", "alias": "champion", "version": "3"},
}
PROMOTE = ["promote", "--version", "3", "--data", "images", "--require", "better", "--", "m"]
LOOK = ["history", "--alias", "champion", "--", "m"]


def import_example(name: str) -> ModuleType:
    """Import an example; the folder of the examples is on the path, as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return import_module(name)


@contextmanager
def run_receiver(make_command: Any, run: Any) -> Iterator[str]:
    """Run a receiver on a free port; yield its URL."""
    server = import_example("mlflow_webhooks").Receiver(0, SECRET, make_command, run)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[tuple[str, "queue.Queue[list[str]]"]]:
    """Start the receiver that promotes; yield its URL and the commands it runs."""
    judged: queue.Queue[list[str]] = queue.Queue()
    promote = import_example("promote_on_registration").promote_with(
        "images", ["--require", "better"]
    )
    with run_receiver(promote, judged.put) as address:
        yield address, judged


def deliver(
    address: str, event: Any, *, secret: str = SECRET, age_seconds: int = 0, delivery: str = "one"
) -> int:
    """Post an event signed by MLflow's own code; return the response status."""
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = json.dumps(event)
    sent = str(int(time.time()) - age_seconds)
    headers = {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": sent,
        "X-MLflow-Signature": _generate_hmac_signature(secret, delivery, sent, body),
    }
    return requests.post(address, data=body, headers=headers, timeout=10).status_code


def test_a_new_version_is_handled_once(receiver: tuple[str, Any]) -> None:
    """A signed event queues its version; the same delivery sent again does not."""
    address, judged = receiver
    assert deliver(address, CREATED) == 202
    assert deliver(address, CREATED) == 202
    assert judged.get(timeout=10) == PROMOTE
    assert deliver(address, CREATED, delivery="two") == 202
    assert judged.get(timeout=10) == PROMOTE
    assert judged.empty()


def test_unauthenticated_requests_are_rejected(receiver: tuple[str, Any]) -> None:
    """A wrong secret, a missing signature and an old timestamp queue nothing."""
    address, judged = receiver
    assert deliver(address, CREATED, secret="guessed") == 401
    assert deliver(address, CREATED, age_seconds=3600) == 401
    assert requests.post(address, json=CREATED, timeout=10).status_code == 401
    assert judged.empty()


def test_other_events_are_ignored(receiver: tuple[str, Any]) -> None:
    """A tag event and an invalid event get status 204."""
    address, judged = receiver
    assert deliver(address, {**CREATED, "entity": "model_version_tag"}) == 204
    assert deliver(address, ["no event"]) == 204
    assert judged.empty()


def test_a_move_of_the_alias_is_looked_at() -> None:
    """An alias that was set or deleted is looked at; other aliases and events are ignored."""
    make_command = import_example("record_alias_moves").record_moves_of(["champion"])
    assert make_command(MOVED) == LOOK
    assert make_command({**MOVED, "action": "deleted"}) == LOOK
    assert make_command({**MOVED, "data": {"name": "m", "alias": "previous"}}) is None
    assert make_command(CREATED) is None


@pytest.fixture
def server(initialised_store: Path, tmp_path: Path) -> Iterator[str]:
    """Start an MLflow server that may deliver to plain HTTP on loopback; yield its URI."""
    from cryptography.fernet import Fernet

    copy_empty_store(initialised_store, tmp_path)
    port = find_free_port()
    arguments = ["--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--workers", "1"]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments, "--port", str(port)],
            env=os.environ | settings,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_a_move_by_hand_is_written_down_at_once(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server delivers the event, and `trialrun history` adds the move and its interval."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = mlflow.MlflowClient(server)
    client.create_registered_model("m")
    client.create_model_version("m", source="s3://models/m")
    example = import_example("mlflow_webhooks")
    make_command = import_example("record_alias_moves").record_moves_of(["champion"])
    done: queue.Queue[list[str]] = queue.Queue()

    def run(command: list[str]) -> None:
        example.run_trialrun(command)
        done.put(command)

    with run_receiver(make_command, run) as address:
        client.create_webhook(
            "record-moves",
            address,
            ["model_version_alias.created", "model_version_alias.deleted"],
            secret=SECRET,
        )
        before = format_now()
        client.set_registered_model_alias("m", "champion", "1")
        assert done.get(timeout=60) == LOOK
        after = format_now()
        client.delete_registered_model_alias("m", "champion")
        assert done.get(timeout=60) == LOOK
    tags = client.get_registered_model("m").tags
    entries = [json.loads(tags[f"trialrun.champion.{number:06}"]) for number in (1, 2)]
    assert [(entry["kind"], entry["version"]) for entry in entries] == [
        ("outside", "1"),
        ("alias_deleted", None),
    ]
    assert before < entries[0]["at"] < after
    assert before < entries[1]["not_before"] < after
