"""Requests to an object store: repeated after failures that may pass, within limits."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from trialrun.errors import (
    InvalidDatasetError,
    StorageError,
    TrialrunError,
    redact_credentials,
    summarize_error,
)

Answer = TypeVar("Answer")

_PERMANENT_STATUS = range(400, 500)
_TRANSIENT_STATUS = (408, 425, 429)
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Time limits and retries of requests; `silence_seconds` pass without a byte at most.

    The pause before the n-th repetition is up to `pause_seconds` times 2^n, at most
    `longest_pause_seconds`.
    """

    num_attempts: int = 7
    pause_seconds: float = 0.5
    longest_pause_seconds: float = 20.0
    connect_seconds: float = 10.0
    silence_seconds: float = 60.0
    range_bytes: int = 1 << 24


DEFAULT_LIMITS = RequestLimits()


class ShortAnswerError(Exception):
    """The store sent fewer bytes than it announced."""


def _ignore_retry(_reason: str) -> None: ...


def repeat_request(
    request: Callable[[], Answer],
    address: str,
    limits: RequestLimits,
    on_retry: Callable[[str], None] = _ignore_retry,
) -> Answer:
    """Return the answer to `request`, repeated after failures; `on_retry` gets each reason.

    Raises:
        InvalidDatasetError: The file does not exist, is refused, or stays truncated.
        StorageError: The store still fails after all attempts.
    """
    for attempt in range(limits.num_attempts):
        try:
            return request()
        except TrialrunError:
            raise
        except Exception as error:  # every backend of fsspec has its own classes
            if (permanent := _find_permanent_error(error, address)) is not None:
                raise permanent from error
            if attempt + 1 == limits.num_attempts:
                raise _make_last_error(error, address, limits) from error
            on_retry(summarize_failure(error))
            _pause(attempt, limits)
    raise AssertionError("no attempt")


def _find_permanent_error(error: Exception, address: str) -> TrialrunError | None:
    """Return the error for the user if repeating the request cannot help, else None."""
    address = redact_credentials(address)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return InvalidDatasetError(
            f"{address} does not exist", "Check the address; the shard may have been deleted."
        )
    is_refused = status in _PERMANENT_STATUS and status not in _TRANSIENT_STATUS
    has_none = type(error).__name__ in _NO_CREDENTIALS
    if isinstance(error, PermissionError) or is_refused or has_none:
        return InvalidDatasetError(
            f"{address} is refused: {summarize_failure(error)}",
            "Check the credentials of the store, such as AWS_PROFILE, and their permissions.",
        )
    return None


def _make_last_error(error: Exception, address: str, limits: RequestLimits) -> TrialrunError:
    reason = f"{limits.num_attempts} times: {summarize_failure(error)}"
    if isinstance(error, ShortAnswerError):
        return InvalidDatasetError(
            f"{redact_credentials(address)} is truncated, {reason}",
            "Upload the shard again, or check the proxy before the store.",
        )
    return StorageError(
        f"{redact_credentials(address)} cannot be read, {reason}",
        "Check that the store is up; `trialrun resume` continues an interrupted run.",
    )


def summarize_failure(error: Exception) -> str:
    """Return one line about a failed request, without credentials."""
    return redact_credentials(summarize_error(error))


def _pause(attempt: int, limits: RequestLimits) -> None:
    """Wait longer after each failure, by chance, so that ranks do not repeat in step."""
    longest = min(limits.pause_seconds * 2**attempt, limits.longest_pause_seconds)
    time.sleep(longest * (0.5 + random.random() / 2))
