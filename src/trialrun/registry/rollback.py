"""Back to the holder of an alias before the present one."""

from typing import TYPE_CHECKING

from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.registry.alias import read_succession, succeed, user_name
from trialrun.registry.history import ROLLBACK, Entry, now
from trialrun.registry.versions import find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient


def roll_back(client: "MlflowClient", name: str, alias: str, reason: str) -> Entry:
    """Give `alias` back to the version that held it before; the history says why.

    A second rollback goes one further back, not forward again.

    Raises:
        InvalidParameterError: There is no reason.
        PromotionRefusedError: Nobody held it before, or somebody moved it meanwhile.
        TrackingError: The earlier version is gone, or the store fails.
    """
    if not reason.strip():
        raise InvalidParameterError(
            "reason is empty", "Say why: whoever reads the history will ask."
        )
    succession = read_succession(client, name, alias)
    standing = succession.standing()
    if len(standing) < 2 or succession.holder is None:
        raise PromotionRefusedError(
            f"{name} has no {alias} before "
            + (f"version {succession.holder}" if succession.holder else "this: there is none yet"),
            "`trialrun history` shows who was; `trialrun promote` makes one.",
        )
    target = find_version(client, name, standing[-2])
    entry = Entry(
        number=0,
        kind=ROLLBACK,
        version=target.number,
        replaced=succession.holder,
        at=now(),
        user=user_name(),
        reason=reason.strip(),
    )
    return succeed(client, succession, entry)
