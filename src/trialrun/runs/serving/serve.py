"""Serves a model over HTTP: finds its version and its folder for `serving.http`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.config.serve import ServeConfig
from trialrun.mlflow_client import URI_SCHEMES, connect_client
from trialrun.registry.pins import find_pinned_folder
from trialrun.registry.versions import ModelVersion, find_version_of_uri
from trialrun.serving.http.run import Announce, run_server
from trialrun.serving.http.service.model import OpenModel, open_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient


def serve_model(model: str, config: ServeConfig, token: str | None, announce: Announce) -> None:
    """Serve `model` until a signal stops it; `announce` gets the server's address.

    `token` is the one that `serving.http.settings.check_settings` returned.

    Raises:
        RunInterruptedError: A second signal ended the requests that it had taken.
        TrialrunError: Settings or model cannot be used, or the port is taken.
    """
    run_server(_Source(model, config), config, token, announce)


@dataclass(frozen=True)
class _Source:
    """Opens MODEL; an alias is resolved first, so that the version is known."""

    address: str
    config: ServeConfig

    @cached_property
    def _client(self) -> "MlflowClient":
        return connect_client()

    def _resolve(self) -> ModelVersion | None:
        is_uri = self.address.startswith(URI_SCHEMES)
        return find_version_of_uri(self._client, self.address) if is_uri else None

    def find_version(self) -> str:
        """Return the version that the address names now; empty if it names none."""
        version = self._resolve()
        return "" if version is None else version.number

    def open(self) -> OpenModel:
        """Open the model that the address names now."""
        version = self._resolve()
        if version is not None:
            folder = find_pinned_folder(version.uri)
            return open_folder(folder, version.name, version.number, self.config)
        is_uri = self.address.startswith(URI_SCHEMES)
        name = self.address if is_uri else Path(self.address).expanduser().resolve().name
        return open_folder(find_pinned_folder(self.address), name, "", self.config)
