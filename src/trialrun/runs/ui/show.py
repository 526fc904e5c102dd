"""Shows the current store in MLflow's UI, at the view of an experiment."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trialrun.config.ui import UiConfig
from trialrun.errors import TrialrunError
from trialrun.mlflow_client import connect_client, redact_credentials, resolve_uris
from trialrun.mlflow_client.tracking_uri import find_store_kind
from trialrun.runs.ui.experiment import ShownExperiment, find_experiment, write_view
from trialrun.runs.ui.page import can_read_view, format_address
from trialrun.runs.ui.server import run_mlflow_server

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True)
class ShownUi:
    """The address of the UI; experiment and id are None if the store has no runs."""

    address: str
    experiment: str | None
    experiment_id: str | None
    has_view: bool
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return asdict(self)


def show_ui(config: UiConfig, announce: Callable[[ShownUi], None]) -> None:
    """Serve MLflow's UI until a signal stops it; `announce` gets its address once it answers.

    If the store is a tracking server, that server has the UI: the view is written and announced.

    Raises:
        InvalidParameterError: The port is taken, or there is no such experiment.
        TrackingError: The store or MLflow's server fails.
    """
    client = connect_client()
    uris = resolve_uris()
    experiment = find_experiment(client, config.experiment)
    if find_store_kind(uris[0]) == "server":
        announce(_prepare(client, uris[0], experiment))
        return
    with run_mlflow_server(uris, config.port) as server:
        if server.wait_until_ready():
            announce(_prepare(client, server.address, experiment))
            server.wait_until_stopped()


def _prepare(client: "MlflowClient", address: str, experiment: ShownExperiment | None) -> ShownUi:
    """Write the view if the page can read it; return the page's address."""
    shown = redact_credentials(address)
    if experiment is None:
        page = format_address(shown, None, has_view=False)
        return ShownUi(page, None, None, False, "the store has no runs yet")
    note = _write_view(client, address, experiment)
    page = format_address(shown, experiment.experiment_id, has_view=not note)
    return ShownUi(page, experiment.name, experiment.experiment_id, not note, note)


def _write_view(client: "MlflowClient", address: str, experiment: ShownExperiment) -> str:
    """Write the view; return why that was not possible, if so: the page can do without it."""
    if not can_read_view(address):
        return "this version of MLflow's page has another format of views: it opens without one"
    try:
        write_view(client, experiment, round(1000 * time.time()))
    except TrialrunError as error:
        return f"the page opens without the view of trialrun: {error}"
    return ""
