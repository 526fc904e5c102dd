"""Back to the holder of an alias before the present one."""

from typing import TYPE_CHECKING

from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.registry.alias import read_succession, succeed, user_name
from trialrun.registry.history import ROLLBACK, Entry, Succession, now
from trialrun.registry.versions import find_version, newest_there

if TYPE_CHECKING:
    from mlflow import MlflowClient


def roll_back(client: "MlflowClient", name: str, alias: str, reason: str) -> Entry:
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
    succession = read_succession(client, name, alias)
    number = newest_there(client, name, succession.earlier())
    if number is None:
        raise _nobody_before(succession)
    entry = Entry(
        number=0,
        kind=ROLLBACK,
        version=find_version(client, name, number).number,
        replaced=succession.holder,
        at=now(),
        user=user_name(),
        reason=reason.strip(),
    )
    return succeed(client, succession, entry)


def _nobody_before(succession: Succession) -> PromotionRefusedError:
    holder, gone = succession.holder, succession.earlier()
    return PromotionRefusedError(
        f"{succession.name} has no {succession.alias} before "
        + (f"version {holder}" if holder else "this: there is none")
        + (f"; deleted since: version {', '.join(gone)}" if gone else ""),
        "`trialrun history` shows who was; `trialrun promote` makes one.",
    )
