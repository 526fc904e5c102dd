"""Atomic alias updates: of several concurrent attempts exactly one succeeds, the others raise.

MLflow sets an alias without checking its present version, so this module adds a lock. The lock uses
that MLflow refuses a second experiment of the same name. To claim entry 7 of a history, a process
creates an experiment named after that entry, with the entry in its tags, and deletes (hides) it at
once. It then applies the entry: it sets the tags of the versions, the aliases, and last the history
tag, which marks the entry as applied. Every step can be repeated: a process that finds a claimed
entry without a history tag (the other process died) applies it before doing anything else.

Two cases are not covered:

- Several tracking stores share one registry (MLFLOW_REGISTRY_URI). Each has its own experiments, so
  processes on two of them can claim the same entry.
- Another program moves the alias in the milliseconds between the last check and the move. Its move
  is lost, and the history does not show it.
"""

import getpass
import json
import os
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from trialrun.errors import PromotionRefusedError, TrackingError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.history import (
    ROLLBACK,
    SKIPPED,
    AliasEntry,
    AliasHistory,
    compute_active_stack,
    list_previous_holders,
    make_tag_name,
    name_previous_alias,
    parse_entry,
    read_entries,
)
from trialrun.registry.versions import find_newest_existing, version_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENTRY_TAG = "trialrun.entry"
_CLAIM_TIMEOUT_SECONDS = 2.0  # applying an entry takes about 0.1 s
_RETRY_SECONDS = 0.1
_MAX_ATTEMPTS = 5
_CLAIM_NOTE = (
    "Created by trialrun as a lock while it moves an alias, and deleted at once. It can be deleted "
    "permanently: the history itself is in the tags of the registered model."
)


def read_alias_history(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    """Return the history of `alias`; an entry that another process left unfinished is applied.

    Raises:
        TrackingError: The registered model does not exist, or the store fails.
    """
    deadline = time.monotonic() + _CLAIM_TIMEOUT_SECONDS
    while True:
        history = _read_alias(client, name, alias)
        pending = _read_claim(client, history, history.last_number + 1)
        if pending is None:
            return history
        if time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)  # another process is probably applying it now
        else:
            _apply_entry(client, history, pending)


def _read_alias(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    with translate_tracking_errors(f"registered model {name} cannot be read"):
        model = client.get_registered_model(name)
    try:
        entries = read_entries(model.tags, alias)
    except ValueError as error:
        raise TrackingError(
            f"the history of {name} is damaged: {error}",
            f"Check its tags trialrun.{alias}.* and delete the damaged one.",
        ) from error
    holder = model.aliases.get(alias)
    return AliasHistory(
        name, alias, model.creation_timestamp, str(holder) if holder else None, entries
    )


def move_alias(client: "MlflowClient", expected: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Move the alias to `entry.version` if its history is still `expected`.

    Returns:
        The entry with its number, as stored in the history.

    Raises:
        PromotionRefusedError: Another process moved the alias first, or the version was deleted.
            This call moved nothing.
        TrackingError: The store fails. The next command finishes a move that had started.
    """
    current = read_alias_history(client, expected.name, expected.alias)
    if (current.last_number, current.holder) != (expected.last_number, expected.holder):
        raise _lost_race_error(expected, current)
    entry = replace(entry, number=expected.last_number + 1, claim=uuid.uuid4().hex)
    if not _claim_entry(client, expected, entry):
        current = read_alias_history(client, expected.name, expected.alias)
        raise _lost_race_error(expected, current)
    applied = _apply_entry(client, expected, entry)
    _reconcile(client, expected, entry)
    if applied.is_skipped:
        raise PromotionRefusedError(
            f"version {entry.version} of {expected.name} was deleted in the meantime",
            f"{expected.alias} has not moved: evaluate another version.",
        )
    return applied


def _lost_race_error(expected: AliasHistory, current: AliasHistory) -> PromotionRefusedError:
    user = current.entries[-1].user if current.entries else None
    return PromotionRefusedError(
        f"{expected.alias} of {expected.name} was moved in the meantime: it is now version "
        f"{current.holder or 'none'}, not {expected.holder or 'none'}"
        + (f" (by {user})" if user else ""),
        "Evaluate again: the evidence compared with another champion.",
    )


def _claim_name(history: AliasHistory, number: int) -> str:
    return f"trialrun {history.alias} of {history.name} ({history.created_ms}), entry {number}"


def _claim_entry(client: "MlflowClient", history: AliasHistory, entry: AliasEntry) -> bool:
    """Claim the number of `entry`. Return False if another process has claimed it."""
    from mlflow.exceptions import MlflowException

    tags = {_ENTRY_TAG: entry.to_text(), "mlflow.note.content": _CLAIM_NOTE}
    with translate_tracking_errors("the lock of the alias cannot be created"):
        try:
            experiment = client.create_experiment(_claim_name(history, entry.number), tags=tags)
            client.delete_experiment(experiment)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # A request that was sent again because its first reply was lost finds its own claim.
            claimed = _read_claim(client, history, entry.number)
            return claimed is not None and claimed.claim == entry.claim
    return True


def _read_claim(client: "MlflowClient", history: AliasHistory, number: int) -> AliasEntry | None:
    """Return the entry for which a process claimed `number`, if any."""
    with translate_tracking_errors("the history cannot be read"):
        experiment = client.get_experiment_by_name(_claim_name(history, number))
    return parse_entry(experiment.tags[_ENTRY_TAG]) if experiment else None


def _apply_entry(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Apply a claimed entry, and retry if another process applies it at the same time.

    MLflow's databases answer BAD_REQUEST if two processes add one row at once.

    Returns:
        The entry as stored in the history: skipped if its version was deleted.
    """
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"{before.alias} of {before.name} cannot be moved"):
        for _ in range(_MAX_ATTEMPTS - 1):
            try:
                return _write_entry(client, before, entry)
            except MlflowException as error:
                if error.error_code != "BAD_REQUEST":
                    raise
                time.sleep(_RETRY_SECONDS)
        return _write_entry(client, before, entry)


def _write_entry(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Write the tags of the versions, the aliases, and last the history tag.

    A deleted version cannot take an alias. Its entry is stored as skipped so that the next entry
    can be claimed.
    """
    assert entry.version is not None
    if version_exists(client, before.name, entry.version):
        _tag_versions(client, before, entry)
        client.set_registered_model_alias(before.name, before.alias, entry.version)
        _set_previous(client, before, entry)
    else:
        entry = _mark_skipped(entry)
    client.set_registered_model_tag(
        before.name, make_tag_name(before.alias, entry.number), entry.to_text()
    )
    return entry


def _mark_skipped(entry: AliasEntry) -> AliasEntry:
    if entry.is_skipped:
        return entry
    reason = f"version {entry.version} was deleted before its {entry.kind} ({entry.reason})"
    return replace(entry, kind=SKIPPED, reason=reason)


def _set_previous(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> None:
    """Move `previous` to the newest earlier holder that still exists, or delete it."""
    active_stack = compute_active_stack((*before.entries, entry))
    previous_holders = list_previous_holders(active_stack, entry.version)
    version = find_newest_existing(client, before.name, previous_holders)
    alias = name_previous_alias(before.alias)
    if version is None:
        client.delete_registered_model_alias(before.name, alias)
    else:
        client.set_registered_model_alias(before.name, alias, version)


def _tag_versions(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> None:
    common_tags = {
        "at": entry.at,
        "user": entry.user,
        "reason": entry.reason,
        "data_digest": entry.data_digest,
        "run_id": entry.run_id,
        "figures": json.dumps(dict(entry.figures)) if entry.figures else None,
    }
    start = "restored" if entry.kind == ROLLBACK else "promoted"
    end = "rolled_back" if entry.kind == ROLLBACK else "replaced"
    for version, prefix, link in (
        (entry.version, start, {"from_version": entry.replaced or "none"}),
        (entry.replaced, end, {"by_version": entry.version}),
    ):
        if version is None or not version_exists(client, before.name, version):
            continue
        for key, text in {**common_tags, **link}.items():
            if text:
                name = f"{before.alias}.{prefix}.{key}"
                client.set_model_version_tag(before.name, version, name, text)


def _reconcile(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> None:
    """Apply the newest entry again if other processes moved the alias after `entry`.

    If this process was slow, its writes came after theirs and undid them.
    """
    latest = _read_alias(client, before.name, before.alias)
    moves = [move for move in latest.entries if not move.is_skipped]
    if not moves or moves[-1].number <= entry.number:
        return
    *earlier, newest = moves
    if newest.version and version_exists(client, before.name, newest.version):
        _apply_entry(client, replace(latest, entries=tuple(earlier)), newest)


def find_user_name() -> str:
    """Return the user of the tracking server, else of the operating system."""
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
