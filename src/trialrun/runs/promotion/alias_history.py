"""Who held an alias from when to when, as people and programs read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.config.promote import CHAMPION
from trialrun.mlflow_client import connect_client, redact_credentials, translate_tracking_errors
from trialrun.registry.alias import read_alias_history
from trialrun.registry.history import AliasHistory, name_previous_alias
from trialrun.registry.rollback import restore_previous
from trialrun.registry.versions import find_newest_existing

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True)
class Reign:
    """One version's time as holder of the alias."""

    version: str | None
    since: str | None
    until: str | None
    kind: str
    replaced: str | None
    user: str | None
    reason: str
    data: str | None
    data_digest: str | None
    figures: Mapping[str, float]
    run_id: str | None
    run_url: str | None


@dataclass(frozen=True, slots=True)
class History:
    """An alias's holders, oldest first; the last one holds it now."""

    name: str
    alias: str
    holder: str | None
    previous: str | None
    reigns: tuple[Reign, ...]


def read_history(name: str, alias: str = CHAMPION) -> History:
    """Who was `alias` of `name`, from when to when, and why.

    Raises:
        TrackingError: There is no such model, or the store fails.
    """
    client = connect_client()
    return _make_period(client, read_alias_history(client, name, alias))


def roll_back_alias(name: str, reason: str, alias: str = CHAMPION) -> dict[str, Any]:
    """Give `alias` back to the version before; what was done, as plain values.

    Raises:
        PromotionRefusedError: Nobody held it before, or somebody moved it meanwhile.
        TrialrunError: As `registry.rollback` says.
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


def _make_period(client: "MlflowClient", succession: AliasHistory) -> History:
    reigns = tuple(
        Reign(
            version=tenure.entry.version,
            since=tenure.entry.at,
            until=tenure.until,
            kind=tenure.entry.kind,
            replaced=tenure.entry.replaced,
            user=tenure.entry.user,
            reason=tenure.entry.reason,
            data=tenure.entry.data,
            data_digest=tenure.entry.data_digest,
            figures=tenure.entry.figures,
            run_id=tenure.entry.run_id,
            run_url=_run_url(client, tenure.entry.run_id),
        )
        for tenure in succession.periods()
    )
    return History(
        succession.name,
        succession.alias,
        succession.holder,
        find_newest_existing(client, succession.name, succession.previous_holders()),
        reigns,
    )


def _run_url(client: "MlflowClient", run_id: str | None) -> str | None:
    """The run's page, where the store is a server."""
    server = redact_credentials(str(client.tracking_uri)).rstrip("/")
    if run_id is None or not server.startswith(("http://", "https://")):
        return None
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"run {run_id} cannot be read"):
        try:
            experiment = client.get_run(run_id).info.experiment_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # deleted for good; the history outlives it
    return f"{server}/#/experiments/{experiment}/runs/{run_id}"
