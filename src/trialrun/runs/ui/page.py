"""MLflow's page: whether it can read the view, and the address of an experiment on it."""

import re
from contextlib import suppress
from urllib.parse import urlencode

from trialrun.runs.ui.view import VIEW_MARKERS, VIEW_NAME

_PROGRAM = re.compile(r'src="([^"]*static/js/main\.[^"]*\.js)"')
_TIMEOUT_SECONDS = 30


def can_read_view(address: str) -> bool:
    """Whether the page at `address` has the format of views that `runs.ui.view` writes.

    Its program is searched for the names of the format, because it has no version. A page that
    cannot be fetched, such as one behind a login, counts as one of another format.
    """
    program = _fetch_program(address)
    return all(marker in program for marker in VIEW_MARKERS)


def _fetch_program(address: str) -> str:
    """Return the text of the page's program; empty if it cannot be fetched."""
    found = _PROGRAM.search(_fetch(address, "/"))
    return _fetch(address, f"/{found[1].removeprefix('./')}") if found else ""


def _fetch(address: str, path: str) -> str:
    """Return the text at a path, requested with the credentials and TLS settings of MLflow."""
    import requests
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    with suppress(MlflowException, requests.RequestException):
        response = http_request(
            get_default_host_creds(address.rstrip("/")),
            path,
            "GET",
            max_retries=0,
            timeout=_TIMEOUT_SECONDS,
            raise_on_status=False,
        )
        return response.content.decode("utf-8", "replace") if response.ok else ""
    return ""


def format_address(address: str, experiment_id: str | None, *, has_view: bool) -> str:
    """Return the address of an experiment's runs, or of the list of experiments.

    The page opens in its mode for model training: MLflow's default is that for GenAI.
    """
    view = {"viewStateShareKey": VIEW_NAME, "compareRunsMode": "CHART"} if has_view else {}
    path = "experiments" if experiment_id is None else f"experiments/{experiment_id}/runs"
    query = urlencode({"workflowType": "machine_learning", **view})
    return f"{address.rstrip('/')}/#/{path}?{query}"
