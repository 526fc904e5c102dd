"""The history of an alias with the URLs of its runs, and the rollback of an alias."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trialrun.config.promote import CHAMPION
from trialrun.mlflow_client import connect_client, redact_credentials, translate_tracking_errors
from trialrun.registry.alias import read_alias_history
from trialrun.registry.history import AliasHistory, name_previous_alias
from trialrun.registry.rollback import restore_previous
from trialrun.registry.versions import find_newest_existing

if TYPE_CHECKING:
    from mlflow import MlflowClient


def read_history(name: str, alias: str = CHAMPION) -> AliasHistory:
    """Return the history of `alias` with its `previous` version and the URLs of its runs.

    Raises:
        TrackingError: The registered model does not exist, or the store fails.
    """
    client = connect_client()
    history = read_alias_history(client, name, alias)
    run_ids = dict.fromkeys(entry.run_id for entry in history.entries if entry.run_id)
    run_urls = {run_id: _run_url(client, run_id) for run_id in run_ids}
    return replace(
        history,
        previous=find_newest_existing(client, name, history.previous_holders()),
        run_urls={run_id: url for run_id, url in run_urls.items() if url},
    )


def roll_back_alias(name: str, reason: str, alias: str = CHAMPION) -> dict[str, Any]:
    """Move `alias` back to its previous version and return the move as plain values.

    Raises:
        PromotionRefusedError: No previous version exists, or another process moved the alias.
        TrialrunError: As `restore_previous` says.
    """
    client = connect_client()
    entry = restore_previous(client, name, alias, reason)
    previous_holders = read_alias_history(client, name, alias).previous_holders()
    return {
        "name": name,
        "alias": alias,
        "version": entry.version,
        "from_version": entry.replaced,
        name_previous_alias(alias): find_newest_existing(client, name, previous_holders),
        "reason": entry.reason,
        "at": entry.at,
        "user": entry.user,
    }


def _run_url(client: "MlflowClient", run_id: str) -> str | None:
    """Return the URL of the run's page; None if the store is not a server or the run is deleted."""
    server = redact_credentials(str(client.tracking_uri)).rstrip("/")
    if not server.startswith(("http://", "https://")):
        return None
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"run {run_id} cannot be read"):
        try:
            experiment = client.get_run(run_id).info.experiment_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
    return f"{server}/#/experiments/{experiment}/runs/{run_id}"
