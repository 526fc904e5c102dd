"""Reasons why a request is refused, with the status of the response."""

from collections.abc import Mapping

BAD_REQUEST = 400
UNAUTHORIZED = 401
TIMEOUT = 408
TOO_LARGE = 413
UNSUPPORTED = 415
UNPROCESSABLE = 422
BUSY = 429
FAILED = 500
UNAVAILABLE = 503

_RETRY_SECONDS = "1"


class RequestError(Exception):
    """A request is refused with an HTTP status, for a reason that the client may read."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = dict(headers or {})


def refuse_busy(reason: str) -> RequestError:
    """Return the refusal of a request that may succeed later."""
    return RequestError(BUSY, reason, {"Retry-After": _RETRY_SECONDS})
