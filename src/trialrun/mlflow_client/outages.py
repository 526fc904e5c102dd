"""Outages of a tracking store: errors that pass by themselves, unlike a refusal."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

_HEALTH_SECONDS = 3
_TEMPORARY = frozenset({"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"})
_TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
# In the messages of MLflow, databases and clients of object stores.
_OUTAGE = re.compile(
    r"Max retries exceeded|Connection refused|Connection reset|Connection aborted|timed out|Timeout"
    r"|Remote end closed|Failed to establish a new connection|Name or service not known"
    r"|Temporary failure in name resolution|Network is unreachable|No route to host"
    r"|error code (408|425|429|5\d\d)\b|QueuePool limit|database is locked|too many clients"
    r"|server closed the connection|terminating connection|connection failed"
    r"|the database system is|could not connect|Lost connection|SlowDown|ServiceUnavailable"
)
# Database errors with the same error code as an outage, which need a person.
_REFUSAL = re.compile(
    r"readonly database|unable to open database file|disk is full|no such table|no such column"
    r"|malformed|not a database|CERTIFICATE_VERIFY_FAILED"
)


def is_outage(error: BaseException) -> bool:
    """Whether `error`, or the error that caused it, passes when the store is back."""
    chain = list(_list_causes(error))
    if any(_REFUSAL.search(str(item)) for item in chain):
        return False
    return any(map(_is_temporary, chain))


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _is_temporary(error: BaseException) -> bool:
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _TEMPORARY_STATUS
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return True
    if isinstance(error, requests.exceptions.ChunkedEncodingError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.TimeoutError):
        return True
    if isinstance(error, MlflowException) and error.error_code in _TEMPORARY:
        return True
    return isinstance(error, MlflowException) and _OUTAGE.search(str(error)) is not None


def is_answering(tracking_uri: str) -> bool:
    """Whether the server of a tracking store answers within seconds; true for a local database."""
    import requests
    from mlflow.utils.credentials import get_default_host_creds

    if urlsplit(tracking_uri).scheme not in ("http", "https"):
        return True
    settings = get_default_host_creds(tracking_uri)
    try:
        requests.get(
            tracking_uri.rstrip("/") + "/health",
            timeout=_HEALTH_SECONDS,
            verify=settings.server_cert_path or not settings.ignore_tls_verification,
            cert=settings.client_cert_path,
        )
    except requests.RequestException:
        return False
    return True
