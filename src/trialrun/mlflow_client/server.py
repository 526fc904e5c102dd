"""The tracking server: whether it answers, is an MLflow server, and which version it has."""

from typing import TYPE_CHECKING

from trialrun.errors import TrackingError, redact_credentials
from trialrun.mlflow_client.errors import suggest_remedy

if TYPE_CHECKING:
    from packaging.version import Version
    from requests import Response

OLDEST_VERSION = "3.0.0"  # older servers have no logged models

# Seconds to connect to each address of the host, and to wait for an answer.
_TIMEOUTS = (10.0, 18.0)
_API = "/api/2.0/mlflow/experiments/search?max_results=1"
_NO_SERVER = (
    "Check MLFLOW_TRACKING_URI and that its server is up. `trialrun train --offline` trains "
    "without it."
)
_WRONG_ADDRESS = "Set MLFLOW_TRACKING_URI to the address of an MLflow server; check port and path."
_STATUS_HINTS = {
    401: "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    403: "Use a user with the right to read experiments, or ask the server's administrator; "
    "the server may also refuse this host name (`mlflow server --allowed-hosts`).",
    404: _WRONG_ADDRESS,
}


def check_server(uri: str) -> "Version | None":
    """Check the server at `uri`; return its version, or None if it does not report one.

    MLflow itself would wait for minutes. Some proxies do not pass the address of the version on;
    then the server is asked for an experiment.

    Raises:
        TrackingError: The server does not answer, is too old, or is not an MLflow server.
    """
    version = _parse_version(_request(uri, "/version"))
    if version is None:
        _check_api(uri, _request(uri, _API))
    else:
        _check_version(uri, version)
    return version


def _request(uri: str, path: str) -> "Response":
    """Request a page as MLflow does, with its credentials and TLS settings."""
    import requests
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        response: Response = http_request(
            get_default_host_creds(uri),
            path,
            "GET",
            max_retries=0,
            timeout=_TIMEOUTS,
            raise_on_status=False,
        )
    except (MlflowException, requests.RequestException) as error:
        reason = _find_reason(error)
        raise TrackingError(
            f"the tracking server {redact_credentials(uri)} does not answer: {reason}",
            suggest_remedy(reason, _NO_SERVER),
        ) from error
    return response


def _find_reason(error: Exception) -> str:
    """Return the innermost reason of a failed request, without the addresses before it."""
    cause = error.__context__ or error
    nested = cause.args[0] if cause.args else cause
    text = redact_credentials(str(getattr(nested, "reason", None) or cause))
    return text.partition("): ")[2] or text


def _parse_version(response: "Response") -> "Version | None":
    from packaging.version import InvalidVersion, Version

    if response.status_code != 200:
        return None
    try:
        return Version(response.content.decode("ascii").strip())  # `text` guesses the encoding
    except (InvalidVersion, UnicodeDecodeError):  # a page of another program
        return None


def _check_version(uri: str, version: "Version") -> None:
    from mlflow.version import VERSION
    from packaging.version import Version

    if version < Version(OLDEST_VERSION):
        raise TrackingError(
            f"the tracking server {redact_credentials(uri)} has MLflow {version}, which has no "
            "logged models",
            f"Upgrade the server to MLflow {OLDEST_VERSION} or newer, best {VERSION}, or "
            "use another MLFLOW_TRACKING_URI.",
        )


def _check_api(uri: str, response: "Response") -> None:
    """Check an answer of the API."""
    server, status = redact_credentials(uri), response.status_code
    if status == 200 and _is_json_object(response):
        return
    if status in (401, 403):
        message = f"the tracking server {server} refused the request with status {status}"
        raise TrackingError(message, _STATUS_HINTS[status])
    if status >= 500:
        message = f"the tracking server {server} failed with status {status}"
        raise TrackingError(message, _NO_SERVER)
    raise TrackingError(
        f"{server} answers with status {status}, but not as an MLflow server", _WRONG_ADDRESS
    )


def _is_json_object(response: "Response") -> bool:
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False
