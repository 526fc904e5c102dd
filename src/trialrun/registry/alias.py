"""Atomic alias updates: of several concurrent attempts exactly one succeeds, the others raise.

MLflow sets an alias without checking its present version, so this module adds a lock: a process
claims the next number of the history (see `claims`). It then applies the entry: it sets the tags of
the versions, the aliases, and last the history tag, which marks the entry as applied. Every step
can be repeated: a process that finds a claimed entry without a history tag (the other process died)
applies it before doing anything else.

Every look at the history also adds entries, by the same claims, for the changes that other programs
made to the alias (see `outside_changes`). These write the history tag only.

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

from trialrun.errors import PromotionRefusedError, TrackingError, TrialrunError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.claims import claim_entry, read_claim
from trialrun.registry.history import (
    ROLLBACK,
    SKIPPED,
    AliasEntry,
    AliasHistory,
    compute_active_stack,
    format_now,
    list_previous_holders,
    make_tag_name,
    name_previous_alias,
    read_entries,
)
from trialrun.registry.limits import check_alias, fit_entry
from trialrun.registry.outside_changes import find_outside_changes, read_seen_at, write_seen_at
from trialrun.registry.versions import find_newest_existing, version_exists

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CLAIM_TIMEOUT_SECONDS = 2.0  # applying an entry takes about 0.1 s
_RETRY_SECONDS = 0.1
_MAX_ATTEMPTS = 5


def read_alias_history(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    """Return the history of `alias` after adding the changes that other programs made.

    An entry that another process left unfinished is applied. Without write access nothing is
    written, and the history has what could not be written as `unrecorded`.

    Raises:
        TrackingError: The registered model does not exist, or the store fails.
        InvalidParameterError: `alias` is too long, or it is the alias of a previous holder.
    """
    check_alias(alias)
    _read_alias(client, name, alias)  # fails if the store cannot be read
    try:
        return _update_history(client, name, alias)
    except TrialrunError:
        return _preview_changes(client, _read_alias(client, name, alias))


def _preview_changes(client: "MlflowClient", history: AliasHistory) -> AliasHistory:
    """Return the history with the entries that it lacks, without writing them."""
    pending = read_claim(client, history, history.last_number + 1)
    if pending and pending.is_move and pending.version == history.holder:
        return replace(history, unrecorded=(pending,))
    return replace(history, unrecorded=find_outside_changes(client, history))


def _update_history(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    """Return the history after writing everything that is missing in its log."""
    while True:
        read_at = format_now()
        history = _finish_pending(client, name, alias)
        changes = find_outside_changes(client, history)
        if not changes:
            write_seen_at(client, history, read_at)
            return history
        _record_changes(client, history, changes)


def _record_changes(
    client: "MlflowClient", history: AliasHistory, changes: tuple[AliasEntry, ...]
) -> None:
    """Write `changes` to the log until another process claims one of their numbers first."""
    for change in changes:
        entry = replace(fit_entry(change), claim=uuid.uuid4().hex)
        if not claim_entry(client, history, entry):
            return
        _apply_entry(client, history, entry)
        history = replace(history, entries=(*history.entries, entry))


def _finish_pending(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    """Return the history; a claimed entry that its process does not apply is applied."""
    deadline = time.monotonic() + _CLAIM_TIMEOUT_SECONDS
    while True:
        history = _read_alias(client, name, alias)
        pending = read_claim(client, history, history.last_number + 1)
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
    history = AliasHistory(
        name, alias, model.creation_timestamp, str(holder) if holder else None, entries
    )
    return replace(history, seen_at=read_seen_at(model.tags, alias, history.last_number))


def move_alias(client: "MlflowClient", expected: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Move the alias to `entry.version` if its history is still `expected`.

    Returns:
        The entry with its number, as stored in the history.

    Raises:
        PromotionRefusedError: Another process moved the alias first, or the version was deleted.
            This call moved nothing.
        TrackingError: The store fails. The next command finishes a move that had started.
    """
    current, entry = _claim_move(client, expected, entry)
    applied = _apply_entry(client, current, entry)
    _reconcile(client, current, entry)
    if applied.is_skipped:
        raise PromotionRefusedError(
            f"version {entry.version} of {expected.name} was deleted in the meantime",
            f"{expected.alias} has not moved: evaluate another version.",
        )
    return applied


def _claim_move(
    client: "MlflowClient", expected: AliasHistory, entry: AliasEntry
) -> tuple[AliasHistory, AliasEntry]:
    """Return the history that precedes the move, and the entry with the number claimed for it.

    Another process may claim the number for a deleted version: the move then takes the next one.
    """
    while True:
        current = _update_history(client, expected.name, expected.alias)
        if _identify_state(current) != _identify_state(expected):
            raise _lost_race_error(expected, current)
        claim = uuid.uuid4().hex
        entry = fit_entry(replace(entry, number=current.last_number + 1, claim=claim))
        if claim_entry(client, current, entry):
            return current, entry


def _identify_state(history: AliasHistory) -> tuple[int, str | None]:
    """Return what differs after each move of the alias: the number of the move and the holder."""
    return history.last_move.number if history.last_move else 0, history.holder


def _lost_race_error(expected: AliasHistory, current: AliasHistory) -> PromotionRefusedError:
    user = current.last_move.user if current.last_move else None
    return PromotionRefusedError(
        f"{expected.alias} of {expected.name} was moved in the meantime: it is now version "
        f"{current.holder or 'none'}, not {expected.holder or 'none'}"
        + (f" (by {user})" if user else ""),
        "Evaluate again: the evidence compared with another champion.",
    )


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

    A change by another program needs the history tag only. A deleted version cannot take an alias.
    Its entry is stored as skipped so that the next entry can be claimed.
    """
    if entry.is_outside:
        pass
    elif entry.version and version_exists(client, before.name, entry.version):
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
    return fit_entry(replace(entry, kind=SKIPPED, reason=reason))


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
    """Undo our writes if others moved the alias after `entry` and this process was too slow."""
    latest = _read_alias(client, before.name, before.alias)
    newest = latest.last_move
    if newest is None or newest.number <= entry.number:
        return
    if newest.is_outside:
        if latest.holder == entry.version:
            _set_alias(client, latest, newest.version)
    elif newest.version and version_exists(client, before.name, newest.version):
        earlier = tuple(item for item in latest.entries if item.number < newest.number)
        _apply_entry(client, replace(latest, entries=earlier), newest)


def _set_alias(client: "MlflowClient", history: AliasHistory, version: str | None) -> None:
    """Set the alias to `version`, or delete it if `version` is None or was deleted."""
    with translate_tracking_errors(f"{history.alias} of {history.name} cannot be moved"):
        if version and version_exists(client, history.name, version):
            client.set_registered_model_alias(history.name, history.alias, version)
        else:
            client.delete_registered_model_alias(history.name, history.alias)


def find_user_name() -> str:
    """Return the user of the tracking server, else of the operating system."""
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
