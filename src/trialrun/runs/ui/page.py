"""MLflow's page: whether it can read the view, and the address of an experiment on it."""

import re
from contextlib import suppress
from urllib.parse import urlencode, urljoin

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
    import requests

    base = address.rstrip("/") + "/"
    with suppress(requests.RequestException):
        page = requests.get(base, timeout=_TIMEOUT_SECONDS)
        if found := _PROGRAM.search(page.text):
            program = requests.get(urljoin(base, found[1]), timeout=_TIMEOUT_SECONDS)
            return program.content.decode("utf-8", "replace") if program.ok else ""
    return ""


def format_address(address: str, experiment_id: str | None, *, has_view: bool) -> str:
    """Return the address of an experiment's runs, or of the list of experiments.

    The page opens in its mode for model training: MLflow's default is that for GenAI.
    """
    view = {"viewStateShareKey": VIEW_NAME, "compareRunsMode": "CHART"} if has_view else {}
    path = "experiments" if experiment_id is None else f"experiments/{experiment_id}/runs"
    query = urlencode({"workflowType": "machine_learning", **view})
    return f"{address.rstrip('/')}/#/{path}?{query}"
