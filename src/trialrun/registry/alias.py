"""Moving an alias so that of several who try at once one wins, and the others learn it.

MLflow sets an alias without asking what it was. What it does refuse is a second experiment of one
name, so that is what a turn is taken by: entry 7 of a model's history belongs to whoever makes the
experiment named after it, which bears the entry in its tags and is deleted (hidden) at once. Then
the entry is carried out: version tags, aliases, and last the history tag, which says that it is
done. Every step can be repeated: who finds an entry claimed and not done (its process died)
carries it out before doing anything else.

Not covered: several tracking stores before one registry (MLFLOW_REGISTRY_URI), each of which has
experiments of its own and so gives the same turn once more; and a program that moves the alias past
trialrun in the milliseconds between our last look and our move. Its move is lost, and the history
does not show it.
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
    VOID,
    AliasEntry,
    AliasHistory,
    compute_stack,
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
_PATIENCE_SECONDS = 2.0  # a move takes about a tenth of a second
_LOOK_AGAIN_SECONDS = 0.1
_ATTEMPTS = 5
_EXPLANATION = (
    "Made by trialrun to take its turn at moving an alias, and hidden at once. The history itself "
    "is in the registered model's tags; nothing is lost when this is deleted for good."
)


def read_alias_history(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    """Who holds `alias` and who did before; an entry that somebody left half done is finished.

    Raises:
        TrackingError: There is no registered model `name`, or the store fails.
    """
    patience = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = _read_alias(client, name, alias)
        pending = _read_claim(client, found, found.last_number + 1)
        if pending is None:
            return found
        if time.monotonic() < patience:
            time.sleep(_LOOK_AGAIN_SECONDS)  # most likely it is just being carried out
        else:
            _apply_entry(client, found, pending)


def _read_alias(client: "MlflowClient", name: str, alias: str) -> AliasHistory:
    with translate_tracking_errors(f"registered model {name} cannot be read"):
        model = client.get_registered_model(name)
    try:
        entries = read_entries(model.tags, alias)
    except ValueError as error:
        raise TrackingError(
            f"the history of {name} is damaged: {error}",
            f"Look at its tags trialrun.{alias}.*, and delete the damaged one.",
        ) from error
    holder = model.aliases.get(alias)
    return AliasHistory(
        name, alias, model.creation_timestamp, str(holder) if holder else None, entries
    )


def move_alias(client: "MlflowClient", judged: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Move the alias to `entry.version`, unless the holder is no longer who was judged.

    The entry as it stands in the history, numbered.

    Raises:
        PromotionRefusedError: Somebody else was first, or the version was deleted meanwhile;
            nothing was moved on our behalf.
        TrackingError: The store fails; what was begun is finished by the next command.
    """
    current = read_alias_history(client, judged.name, judged.alias)
    if (current.last_number, current.holder) != (judged.last_number, judged.holder):
        raise _lost_race_error(judged, current)
    entry = replace(entry, number=judged.last_number + 1, claim=uuid.uuid4().hex)
    if not _claim_turn(client, judged, entry):
        raise _lost_race_error(judged, read_alias_history(client, judged.name, judged.alias))
    done = _apply_entry(client, judged, entry)
    _reconcile(client, judged, entry)
    if done.kind == VOID:
        raise PromotionRefusedError(
            f"version {entry.version} of {judged.name} was deleted meanwhile",
            f"{judged.alias} has not moved: judge another version.",
        )
    return done


def _lost_race_error(judged: AliasHistory, current: AliasHistory) -> PromotionRefusedError:
    who = current.entries[-1].user if current.entries else None
    return PromotionRefusedError(
        f"{judged.alias} of {judged.name} was moved meanwhile: it is now version "
        f"{current.holder or 'none'}, not {judged.holder or 'none'}"
        + (f" (by {who})" if who else ""),
        "Judge again: the evidence was about another champion.",
    )


def _claim_name(succession: AliasHistory, number: int) -> str:
    return (
        f"trialrun {succession.alias} of {succession.name} "
        f"({succession.created_ms}), entry {number}"
    )


def _claim_turn(client: "MlflowClient", succession: AliasHistory, entry: AliasEntry) -> bool:
    """Take the turn of `entry.number`; whether it is ours."""
    from mlflow.exceptions import MlflowException

    tags = {_ENTRY_TAG: entry.to_text(), "mlflow.note.content": _EXPLANATION}
    with translate_tracking_errors("the turn to move the alias cannot be taken"):
        try:
            experiment = client.create_experiment(_claim_name(succession, entry.number), tags=tags)
            client.delete_experiment(experiment)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # A request that was sent twice, its first answer lost, finds its own claim here.
            holder = _read_claim(client, succession, entry.number)
            return holder is not None and holder.claim == entry.claim
    return True


def _read_claim(client: "MlflowClient", succession: AliasHistory, number: int) -> AliasEntry | None:
    """The entry that somebody took turn `number` for."""
    with translate_tracking_errors("the history cannot be read"):
        experiment = client.get_experiment_by_name(_claim_name(succession, number))
    return parse_entry(experiment.tags[_ENTRY_TAG]) if experiment else None


def _apply_entry(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Do what a claimed entry says; again where another process, doing the same, got between.

    The entry as the history has it: void where its version is gone.

    MLflow's databases answer BAD_REQUEST where two add one row at once.
    """
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"{before.alias} of {before.name} cannot be moved"):
        for _ in range(_ATTEMPTS - 1):
            try:
                return _write_entry(client, before, entry)
            except MlflowException as error:
                if error.error_code != "BAD_REQUEST":
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
        return _write_entry(client, before, entry)


def _write_entry(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> AliasEntry:
    """Version tags, aliases, and last the history's tag.

    A version that was deleted takes no alias, and must not keep the next one from its turn.
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
    if entry.kind == VOID:
        return entry
    reason = f"version {entry.version} was deleted before its {entry.kind} ({entry.reason})"
    return replace(entry, kind=VOID, reason=reason)


def _set_previous(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> None:
    """Give `previous` to the newest earlier holder that is still there, if there is one."""
    previous_holders = list_previous_holders(compute_stack((*before.entries, entry)), entry.version)
    version = find_newest_existing(client, before.name, previous_holders)
    alias = name_previous_alias(before.alias)
    if version is None:
        client.delete_registered_model_alias(before.name, alias)
    else:
        client.set_registered_model_alias(before.name, alias, version)


def _tag_versions(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> None:
    told = {
        "at": entry.at,
        "user": entry.user,
        "reason": entry.reason,
        "data_digest": entry.data_digest,
        "run_id": entry.run_id,
        "figures": json.dumps(dict(entry.figures)) if entry.figures else None,
    }
    start = "restored" if entry.kind == ROLLBACK else "promoted"
    end = "rolled_back" if entry.kind == ROLLBACK else "replaced"
    for version, prefix, other in (
        (entry.version, start, {"from_version": entry.replaced or "none"}),
        (entry.replaced, end, {"by_version": entry.version}),
    ):
        if version is None or not version_exists(client, before.name, version):
            continue
        for key, text in {**told, **other}.items():
            if text:
                name = f"{before.alias}.{prefix}.{key}"
                client.set_model_version_tag(before.name, version, name, text)


def _reconcile(client: "MlflowClient", before: AliasHistory, entry: AliasEntry) -> None:
    """Where others went on while we were held up, put back what our late moves undid."""
    latest = _read_alias(client, before.name, before.alias)
    moves = [each for each in latest.entries if each.kind != VOID]
    if not moves or moves[-1].number <= entry.number:
        return
    *previous_holders, newest = moves
    if newest.version and version_exists(client, before.name, newest.version):
        _apply_entry(client, replace(latest, entries=tuple(previous_holders)), newest)


def find_user_name() -> str:
    """Who is at work: the tracking server's user, else the operating system's."""
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
