"""The outermost layer of the application: checks the token and counts responses."""

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trialrun.serving.http.answers import encode_json
from trialrun.serving.http.metrics import Metrics
from trialrun.serving.http.requests.problems import FAILED, UNAUTHORIZED

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]

# The page and the probes contain nothing of the model and its images.
PUBLIC_PATHS = frozenset({"/", "/docs", "/health", "/ready", "/ping"})
_REASON = "the request needs the header `Authorization: Bearer TOKEN` with the server's token"


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: Application, metrics: Metrics, token: str | None) -> None:
        self._app = app
        self._metrics = metrics
        self._expected = None if token is None else f"Bearer {token}".encode("ascii")
        self._paths: frozenset[str] = frozenset()

    def count_paths(self, paths: frozenset[str]) -> None:
        """Count the responses of these paths by name; those of others are counted together."""
        self._paths = paths

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = FAILED, time.perf_counter()

        async def send_counted(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._is_allowed(scope):
                await self._app(scope, receive, send_counted)
            else:
                await _refuse(send_counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _is_allowed(self, scope: _Message) -> bool:
        if self._expected is None or scope["path"] in PUBLIC_PATHS:
            return True
        given: bytes = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


async def _refuse(send: _Send) -> None:
    body = encode_json({"status": UNAUTHORIZED, "reason": _REASON})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": UNAUTHORIZED, "headers": headers})
    await send({"type": "http.response.body", "body": body})
