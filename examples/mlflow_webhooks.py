"""What the receivers of MLflow webhooks share: the HTTP server, the signature and the work queue.

A receiver listens on localhost and uses plain HTTP. MLflow delivers to https URLs only, so put a
web server with TLS in front of it. A delivery must be recent and signed with the secret in the
variable TRIALRUN_WEBHOOK_SECRET. The commands run one after the other. The response (202) is sent
before the command runs, because MLflow waits at most 30 seconds for it.
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
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET_VARIABLE = "TRIALRUN_WEBHOOK_SECRET"  # noqa: S105 - the variable's name
MAX_AGE_SECONDS = 300  # an older delivery may be a replayed recording
MAX_BODY_BYTES = 1_000_000

Command = list[str]  # arguments of trialrun
MakeCommand = Callable[[Any], Command | None]  # takes an event; None if the event is ignored
log = logging.getLogger("mlflow_webhooks")


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


def run_trialrun(command: Command) -> None:
    """Run trialrun in a separate process and log its exit code."""
    process = subprocess.run([sys.executable, "-m", "trialrun", *command], check=False)
    log.info("trialrun %s: exit code %d", " ".join(command), process.returncode)


class Receiver(ThreadingHTTPServer):
    """The HTTP server and the thread that runs the commands."""

    def __init__(
        self,
        port: int,
        secret: str,
        make_command: MakeCommand,
        run: Callable[[Command], None] = run_trialrun,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.secret = secret
        self._make_command, self._run = make_command, run
        self._pending: queue.Queue[Command] = queue.Queue()
        self._accepted: set[str] = set()
        threading.Thread(target=self._work, daemon=True).start()

    def accept(self, delivery: str, body: bytes) -> bool:
        """Add the command for an event to the queue. Return False if the event is ignored.

        MLflow repeats a delivery if the response was too late.
        """
        try:
            command = self._make_command(json.loads(body))
        except (ValueError, KeyError, TypeError):
            command = None
        if command is None:
            return False
        if delivery not in self._accepted:
            self._accepted.add(delivery)
            self._pending.put(command)
        return True

    def _work(self) -> None:
        while True:
            command = self._pending.get()
            try:
                self._run(command)
            except OSError:
                log.exception("trialrun %s could not be started", " ".join(command))


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
        elif self.server.accept(self.headers["X-MLflow-Delivery-Id"], body):
            self._respond(202)
        else:
            self._respond(204)

    def _respond(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Write the access log to the logger."""
        log.info(format, *arguments)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every receiver; the help starts with `description`."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8099)
    return parser


def serve(port: int, make_command: MakeCommand) -> None:
    """Run a receiver until it is stopped."""
    secret = os.environ.get(SECRET_VARIABLE)
    if not secret:
        sys.exit(f"Set {SECRET_VARIABLE} to the webhook's secret.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    Receiver(port, secret, make_command).serve_forever()


def is_event(event: Any, entity: str, actions: Sequence[str]) -> bool:
    """Whether an event is about `entity`, with one of `actions`."""
    return event["entity"] == entity and event["action"] in actions
