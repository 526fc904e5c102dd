"""A receiver of MLflow's webhooks: when a version is registered, it is judged for champion.

    TRIALRUN_WEBHOOK_SECRET=... python examples/promote_on_registration.py \
        --data /srv/test-images --port 8099 -- --require better

It listens on this machine alone and speaks plain HTTP: MLflow delivers to https addresses only, so
put your web server's TLS in front of it. Deliveries must bear the secret's signature and be fresh.
Versions are judged one after the other; the answer (202) does not wait for the verdict, since
MLflow gives a receiver 30 seconds. What comes of it stands in the registry, as
`trialrun history NAME` shows.
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
MAX_AGE_SECONDS = 300  # an older delivery may be somebody's recording of it
MAX_BODY_BYTES = 1_000_000

Judge = Callable[[str, str], None]  # a registered model's name and a version's number
log = logging.getLogger("promote_on_registration")


def is_authentic(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether MLflow signed `body` with `secret`, and lately."""
    delivery, sent = headers.get("X-MLflow-Delivery-Id"), headers.get("X-MLflow-Timestamp")
    signature = headers.get("X-MLflow-Signature", "")
    if not delivery or not sent or not sent.isdecimal():
        return False
    if abs(time.time() - int(sent)) > MAX_AGE_SECONDS:
        return False
    signed = f"{delivery}.{sent}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return hmac.compare_digest(signature.encode(), expected.encode())


def registered_version(body: bytes) -> tuple[str, str] | None:
    """The name and number of the version that an event says was created; None for other events."""
    try:
        event = json.loads(body)
        if (event["entity"], event["action"]) != ("model_version", "created"):
            return None
        return str(event["data"]["name"]), str(event["data"]["version"])
    except (ValueError, KeyError, TypeError):
        return None


class Receiver(ThreadingHTTPServer):
    """The server and the one thread that judges."""

    def __init__(self, port: int, secret: str, judge: Judge) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.secret = secret
        self._judge = judge
        self._waiting: queue.Queue[tuple[str, str]] = queue.Queue()
        self._seen: set[str] = set()
        threading.Thread(target=self._work, daemon=True).start()

    def accept(self, delivery: str, version: tuple[str, str]) -> None:
        """Put a version in the line; MLflow delivers again what was answered too late."""
        if delivery not in self._seen:
            self._seen.add(delivery)
            self._waiting.put(version)

    def _work(self) -> None:
        while True:
            name, number = self._waiting.get()
            try:
                self._judge(name, number)
            except OSError:
                log.exception("%s version %s could not be judged", name, number)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Answer 202 to an event taken, 204 to another, 401 to a stranger."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self._answer(413)
            return
        body = self.rfile.read(int(length))
        if not is_authentic(self.server.secret, self.headers, body):
            self._answer(401)
        elif (version := registered_version(body)) is None:
            self._answer(204)
        else:
            self.server.accept(self.headers["X-MLflow-Delivery-Id"], version)
            self._answer(202)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Send the access log where all else goes."""
        log.info(format, *arguments)


def judge_with(data: str, options: list[str]) -> Judge:
    """Run the gate in a process of its own."""

    def judge(name: str, number: str) -> None:
        gate = ["promote", name, "--version", number, "--data", data, *options]
        done = subprocess.run([sys.executable, "-m", "trialrun", *gate], check=False)
        log.info("%s version %s: exit code %d", name, number, done.returncode)

    return judge


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled test images")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("options", nargs="*", help="options of `trialrun promote`, after --")
    given = parser.parse_args()
    secret = os.environ.get(SECRET_VARIABLE)
    if not secret:
        parser.error(f"set {SECRET_VARIABLE} to the webhook's secret")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Receiver(given.port, secret, judge_with(given.data, given.options)).serve_forever()


if __name__ == "__main__":
    main()
