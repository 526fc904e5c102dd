"""A receiver of MLflow webhooks that runs `trialrun promote` on each newly registered version.

    TRIALRUN_WEBHOOK_SECRET=... python examples/promote_on_registration.py \
        --data /srv/test-images --port 8099 -- --require better

It listens on localhost and uses plain HTTP. MLflow delivers to https URLs only, so put a web
server with TLS in front of it. A delivery must be recent and signed with the secret. Versions are
evaluated one after the other. The response (202) is sent before the evaluation, because MLflow
waits at most 30 seconds for it. `trialrun history NAME` shows the result.
"""

import argparse
import base64
import hashlib
import hmac
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET_VARIABLE = "TRIALRUN_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
MAX_AGE_SECONDS = 300  # an older delivery may be a replayed recording
MAX_BODY_BYTES = 1_000_000

Evaluate = Callable[[str, str], None]  # takes the name of a registered model and a version number
log = logging.getLogger("promote_on_registration")


def is_authentic(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether MLflow signed `body` with `secret` recently."""
    delivery, timestamp = headers.get("X-MLflow-Delivery-Id"), headers.get("X-MLflow-Timestamp")
    signature = headers.get("X-MLflow-Signature", "")
    if not delivery or not timestamp or not timestamp.isdecimal():
        return False
    if abs(time.time() - int(timestamp)) > MAX_AGE_SECONDS:
        return False
    signed = f"{delivery}.{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return hmac.compare_digest(signature.encode(), expected.encode())


def read_registered_version(body: bytes) -> tuple[str, str] | None:
    """Return name and number of the version that an event reports as created, else None."""
    try:
        event = json.loads(body)
        if (event["entity"], event["action"]) != ("model_version", "created"):
            return None
        return str(event["data"]["name"]), str(event["data"]["version"])
    except (ValueError, KeyError, TypeError):
        return None


class Receiver(ThreadingHTTPServer):
    """The HTTP server and the thread that evaluates versions."""

    def __init__(self, port: int, secret: str, evaluate: Evaluate) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.secret = secret
        self._evaluate = evaluate
        self._pending: queue.Queue[tuple[str, str]] = queue.Queue()
        self._accepted: set[str] = set()
        threading.Thread(target=self._work, daemon=True).start()

    def accept(self, delivery: str, version: tuple[str, str]) -> None:
        """Add a version to the queue; MLflow repeats a delivery if the response was too late."""
        if delivery not in self._accepted:
            self._accepted.add(delivery)
            self._pending.put(version)

    def _work(self) -> None:
        while True:
            name, number = self._pending.get()
            try:
                self._evaluate(name, number)
            except OSError:
                log.exception("%s version %s could not be evaluated", name, number)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Respond 202 to an accepted event, 204 to other events, 401 to a wrong signature."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self._respond(413)
            return
        body = self.rfile.read(int(length))
        if not is_authentic(self.server.secret, self.headers, body):
            self._respond(401)
        elif (version := read_registered_version(body)) is None:
            self._respond(204)
        else:
            self.server.accept(self.headers["X-MLflow-Delivery-Id"], version)
            self._respond(202)

    def _respond(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Write the access log to the logger."""
        log.info(format, *arguments)


def make_evaluate(data: str, options: list[str]) -> Evaluate:
    """Return a function that runs `trialrun promote` in a separate process."""

    def evaluate(name: str, number: str) -> None:
        arguments = ["promote", name, "--version", number, "--data", data, *options]
        process = subprocess.run([sys.executable, "-m", "trialrun", *arguments], check=False)
        log.info("%s version %s: exit code %d", name, number, process.returncode)

    return evaluate


def main() -> None:
    """Run the receiver until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled test images")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("options", nargs="*", help="options of `trialrun promote`, after --")
    arguments = parser.parse_args()
    secret = os.environ.get(SECRET_VARIABLE)
    if not secret:
        parser.error(f"set {SECRET_VARIABLE} to the webhook's secret")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    evaluate = make_evaluate(arguments.data, arguments.options)
    Receiver(arguments.port, secret, evaluate).serve_forever()


if __name__ == "__main__":
    main()
