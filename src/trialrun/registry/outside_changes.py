"""Changes that other programs made to an alias: moves, deleted aliases and deleted versions.

MLflow keeps no history of aliases, so trialrun compares the alias with its own log. The time of a
change is known as an interval, from the last time that trialrun found the alias as the log says
(the tag `trialrun.<alias>.seen`) until now.
"""

import json
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from trialrun.errors import TrialrunError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.history import (
    ALIAS_DELETED,
    OUTSIDE,
    VERSION_DELETED,
    AliasEntry,
    AliasHistory,
    format_now,
    format_time,
)
from trialrun.registry.versions import version_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE_LENGTH = 1000


def find_outside_changes(client: "MlflowClient", history: AliasHistory) -> tuple[AliasEntry, ...]:
    """Return entries for the changes that are not in the log, with the numbers that follow it.

    Raises:
        TrackingError: The store fails.
    """
    changes = list(_find_alias_change(client, history))
    changes += _find_deleted_versions(client, replace(history, unrecorded=tuple(changes)))
    first = history.last_number + 1
    return tuple(replace(change, number=first + place) for place, change in enumerate(changes))


def _find_alias_change(client: "MlflowClient", history: AliasHistory) -> Iterator[AliasEntry]:
    """Yield the change of the alias since the newest move in the log, if there is one."""
    known = history.recorded_holder
    if history.holder == known:
        return
    if history.holder is not None:
        yield _make_change(history, OUTSIDE, reason="moved by a program other than trialrun")
    elif known is None or version_exists(client, history.name, known):
        yield _make_change(
            history, ALIAS_DELETED, reason="deleted by a program other than trialrun"
        )
    else:
        yield _make_change(
            history, VERSION_DELETED, deleted=known, reason=f"version {known} was deleted"
        )


def _find_deleted_versions(client: "MlflowClient", history: AliasHistory) -> Iterator[AliasEntry]:
    """Yield an entry for each deleted version that once held the alias, unless the log has it."""
    known = history.all_holders - history.deleted_versions - {history.holder}
    if not known:
        return
    for version in sorted(known - _find_existing(client, history.name, known), key=_sort_key):
        reason = f"version {version} was deleted"
        change = _make_change(history, VERSION_DELETED, deleted=version, reason=reason)
        yield replace(change, replaced=None)  # the alias did not move


def _find_existing(client: "MlflowClient", name: str, versions: Set[str]) -> set[str]:
    """Return the versions that exist, by one search: one request per version would be slow."""
    if "'" in name and '"' in name:  # MLflow's filters cannot quote such a name
        return {version for version in versions if version_exists(client, name, version)}
    quote = '"' if "'" in name else "'"
    existing: set[str] = set()
    token = None
    with translate_tracking_errors(f"the versions of {name} cannot be listed"):
        while True:
            page = client.search_model_versions(
                f"name = {quote}{name}{quote}", max_results=_PAGE_LENGTH, page_token=token
            )
            existing.update(str(version.version) for version in page)
            token = page.token
            if not token:
                return existing


def _sort_key(version: str) -> tuple[int, str]:
    return len(version), version


def _make_change(
    history: AliasHistory, kind: str, *, reason: str, deleted: str | None = None
) -> AliasEntry:
    now = format_now()
    return AliasEntry(
        number=0,
        kind=kind,
        version=history.holder,
        replaced=history.recorded_holder,
        not_before=min(_find_last_look(history), now),  # the clocks of machines differ
        at=now,
        user=None,
        reason=reason,
        deleted=deleted,
    )


def _find_last_look(history: AliasHistory) -> str:
    """Return the last time at which the alias was as the log says."""
    if history.seen_at:
        return history.seen_at
    newest = history.entries[-1].at if history.entries else None
    return newest or format_time(history.created_ms / 1000)


def read_seen_at(tags: Mapping[str, str], alias: str, last_number: int) -> str | None:
    """Return when trialrun last found the alias as entry `last_number` says; None if never."""
    with suppress(ValueError, TypeError, KeyError):
        seen = json.loads(tags[_name_seen_tag(alias)])
        if seen["number"] == last_number:
            return str(seen["at"])
    return None


def write_seen_at(client: "MlflowClient", history: AliasHistory, at: str) -> None:
    """Store that the alias was as the log says at the time `at`, if the user has write access."""
    if not history.entries:
        return
    seen = json.dumps({"number": history.last_number, "at": at})
    with suppress(TrialrunError), translate_tracking_errors("the time cannot be stored"):
        client.set_registered_model_tag(history.name, _name_seen_tag(history.alias), seen)


def _name_seen_tag(alias: str) -> str:
    return f"trialrun.{alias}.seen"
