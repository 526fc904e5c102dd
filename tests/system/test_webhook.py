"""The example that evaluates a version as soon as it is registered."""

import importlib.util
import json
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests

EXAMPLE = Path(__file__).parents[2] / "examples" / "promote_on_registration.py"
SECRET = "not to be guessed"
CREATED = {"entity": "model_version", "action": "created", "data": {"name": "m", "version": "3"}}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """Import the example from its file."""
    spec = importlib.util.spec_from_file_location("promote_on_registration", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def receiver(example: ModuleType) -> Iterator[tuple[str, "queue.Queue[tuple[str, str]]"]]:
    """Start the receiver on a free port; yield its URL and the versions it handles."""
    judged: queue.Queue[tuple[str, str]] = queue.Queue()
    server = example.Receiver(0, SECRET, lambda name, number: judged.put((name, number)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", judged
    server.shutdown()
    server.server_close()
    thread.join()


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
    assert judged.get(timeout=10) == ("m", "3")
    assert deliver(address, CREATED, delivery="two") == 202
    assert judged.get(timeout=10) == ("m", "3")
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
