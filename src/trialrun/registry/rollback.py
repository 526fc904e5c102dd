"""Back to the holder of an alias before the present one."""

from typing import TYPE_CHECKING

from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.registry.alias import find_user_name, move_alias, read_alias_history
from trialrun.registry.history import ROLLBACK, AliasEntry, AliasHistory, format_now
from trialrun.registry.versions import find_newest_existing, find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient


def restore_previous(client: "MlflowClient", name: str, alias: str, reason: str) -> AliasEntry:
    """Give `alias` back to the newest version that held it before and is still there.

    A second rollback goes one further back, not forward again. The history says why.

    Raises:
        InvalidParameterError: There is no reason.
        PromotionRefusedError: Nobody who is still there held it before, or somebody moved it
            meanwhile.
        TrackingError: The store fails.
    """
    if not reason.strip():
        raise InvalidParameterError(
            "reason is empty", "Say why: whoever reads the history will ask."
        )
    succession = read_alias_history(client, name, alias)
    number = find_newest_existing(client, name, succession.previous_holders())
    if number is None:
        raise _no_previous_error(succession)
    entry = AliasEntry(
        number=0,
        kind=ROLLBACK,
        version=find_version(client, name, number).number,
        replaced=succession.holder,
        at=format_now(),
        user=find_user_name(),
        reason=reason.strip(),
    )
    return move_alias(client, succession, entry)


def _no_previous_error(succession: AliasHistory) -> PromotionRefusedError:
    holder, gone = succession.holder, succession.previous_holders()
    return PromotionRefusedError(
        f"{succession.name} has no {succession.alias} before "
        + (f"version {holder}" if holder else "this: there is none")
        + (f"; deleted since: version {', '.join(gone)}" if gone else ""),
        "`trialrun history` shows who was; `trialrun promote` makes one.",
    )
