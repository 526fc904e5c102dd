"""Rollback of an alias to its previous holder."""

from typing import TYPE_CHECKING

from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.registry.alias import find_user_name, move_alias, read_alias_history
from trialrun.registry.history import ROLLBACK, AliasEntry, AliasHistory, format_now
from trialrun.registry.versions import find_newest_existing, find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient


def restore_previous(client: "MlflowClient", name: str, alias: str, reason: str) -> AliasEntry:
    """Move `alias` back to the newest earlier holder that still exists.

    A second rollback goes one version further back; it does not undo the first. The history stores
    `reason`.

    Raises:
        InvalidParameterError: `reason` is empty.
        PromotionRefusedError: No earlier holder exists, or another process moved the alias.
        TrackingError: The store fails.
    """
    if not reason.strip():
        raise InvalidParameterError("reason is empty", "Give a reason: the history shows it.")
    history = read_alias_history(client, name, alias)
    number = find_newest_existing(client, name, history.previous_holders())
    if number is None:
        raise _no_previous_error(history)
    entry = AliasEntry(
        number=0,
        kind=ROLLBACK,
        version=find_version(client, name, number).number,
        replaced=history.holder,
        at=format_now(),
        user=find_user_name(),
        reason=reason.strip(),
    )
    return move_alias(client, history, entry)


def _no_previous_error(history: AliasHistory) -> PromotionRefusedError:
    holder, deleted = history.holder, history.previous_holders()
    return PromotionRefusedError(
        f"{history.name} has no {history.alias} "
        + (f"before version {holder}" if holder else "to restore")
        + (f"; deleted since: version {', '.join(deleted)}" if deleted else ""),
        "`trialrun history` lists all holders; `trialrun promote` sets a new one.",
    )
