"""The history of an alias: a log of entries in the tags of the registered model.

Each entry is one tag, `trialrun.<alias>.000007`, with a JSON value. Entries are only ever added and
are numbered from 1 without gaps. If the version of an entry was deleted before it took the alias,
the entry is skipped: it keeps its number, and the alias does not move.

Changes by other programs are entries of the kinds `outside` (the alias was moved), `alias_deleted`
and `version_deleted`. Their user is unknown, and their time is an interval.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from trialrun.config.promote import CHAMPION
from trialrun.report.html_tables import render_table

PROMOTION, ROLLBACK, SKIPPED = "promotion", "rollback", "void"
OUTSIDE, ALIAS_DELETED, VERSION_DELETED = "outside", "alias_deleted", "version_deleted"
_UNKNOWN = "unknown"  # an end time that no entry has


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry:
    """One move of the alias to a version, or one change that another program made.

    `at` is in ISO 8601, UTC. A change by another program happened between `not_before` and `at`.
    `version` is the holder afterwards, None if the alias is missing. `deleted` is the version that
    an entry of kind `version_deleted` is about. `claim` is unique to one attempt at the entry.
    """

    number: int
    kind: str
    version: str | None
    replaced: str | None
    at: str | None
    user: str | None
    reason: str
    run_id: str | None = None
    data: str | None = None
    data_digest: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    claim: str = ""
    not_before: str | None = None
    deleted: str | None = None

    @property
    def is_move(self) -> bool:
        """Whether the alias moved or went missing: not if a version other than its holder did."""
        return not self.is_skipped and (self.kind != VERSION_DELETED or self.replaced is not None)

    @property
    def is_outside(self) -> bool:
        """Whether a program other than trialrun made the change."""
        return self.kind in {OUTSIDE, ALIAS_DELETED, VERSION_DELETED}

    @property
    def is_skipped(self) -> bool:
        """Whether the entry did not move the alias because its version was deleted."""
        return self.kind == SKIPPED

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values, by name."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the value of the entry's tag."""
        return json.dumps(self.to_json(), ensure_ascii=False)


def parse_entry(text: str) -> AliasEntry:
    """Return the entry that `AliasEntry.to_text` wrote; fields of a newer trialrun are ignored.

    Raises:
        ValueError: `text` is not an entry.
    """
    known = {item.name for item in fields(AliasEntry)}
    try:
        return AliasEntry(
            **{name: value for name, value in json.loads(text).items() if name in known}
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not an entry of an alias history: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasPeriod:
    """The time from `since` to `until` in which a version held the alias.

    `until` is None if the version still holds the alias. A change by another program happened
    between `since_not_before` and `since`. The period of a skipped entry or of a deleted version
    that did not hold the alias ends when it starts.
    """

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
    run_url: str | None = None
    since_not_before: str | None = None
    until_not_before: str | None = None


@dataclass(frozen=True, slots=True)
class AliasHistory:
    """An alias of a registered model: the version that holds it now, and its log.

    `previous` and `run_urls` are for display and stay empty unless the caller looks them up.
    `unrecorded` has the changes by other programs that could not be written to the log.
    """

    name: str
    alias: str
    created_ms: int  # of the registered model: a new model under an old name has its own log
    holder: str | None
    entries: tuple[AliasEntry, ...]
    previous: str | None = None  # the version that a rollback would restore
    run_urls: Mapping[str, str] = field(default_factory=dict)  # run id to the page of the run
    unrecorded: tuple[AliasEntry, ...] = ()
    seen_at: str | None = None  # when trialrun last found the alias as the log says

    def _repr_html_(self) -> str:
        """Return the table of holders for notebooks."""
        rows = [
            (item.version or "", item.since or "", item.until or "", item.kind, item.reason)
            for item in self.periods
        ]
        heading = ("version", "since", "until", "change", "reason")
        return render_table(f"{self.alias} of {self.name}", rows, heading=heading)

    @property
    def last_number(self) -> int:
        """The number of the newest entry, 0 if the log is empty."""
        return self.entries[-1].number if self.entries else 0

    @property
    def all_entries(self) -> tuple[AliasEntry, ...]:
        """The log, and the changes that could not be written to it."""
        return (*self.entries, *self.unrecorded)

    @property
    def last_move(self) -> AliasEntry | None:
        """The newest entry that moved the alias."""
        return next((entry for entry in reversed(self.all_entries) if entry.is_move), None)

    @property
    def recorded_holder(self) -> str | None:
        """The version that holds the alias according to its entries."""
        return self.last_move.version if self.last_move else None

    @property
    def all_holders(self) -> frozenset[str]:
        """The versions that hold or held the alias."""
        # A replaced version may have no entry of its own in a log of an earlier trialrun.
        versions = ((entry.version, entry.replaced) for entry in self.all_entries if entry.is_move)
        return frozenset(version for pair in versions for version in pair if version)

    @property
    def deleted_versions(self) -> frozenset[str]:
        """The versions that held the alias and were deleted."""
        return frozenset(entry.deleted for entry in self.all_entries if entry.deleted)

    @property
    def last_holder(self) -> str | None:
        """The holder; without one, the newest earlier holder that still exists.

        A version that a rollback removed does not count.
        """
        if self.holder is not None:
            return self.holder
        existing = [item for item in self.active_stack() if item not in self.deleted_versions]
        return existing[-1] if existing else None

    @property
    def last_holder_note(self) -> str | None:
        """The sentence that says why `last_holder` is not the holder; None if it is."""
        stack = self.active_stack()
        if self.holder is not None or not stack:
            return None
        last, found = stack[-1], self.last_holder
        if last not in self.deleted_versions:
            return (
                f"{self.alias} of {self.name} is not set; version {last} held it last "
                "(`trialrun rollback` restores it)"
            )
        return f"version {last}, the last {self.alias} of {self.name}, was deleted; " + (
            f"version {found} is the newest earlier one that exists"
            if found
            else "no earlier one exists"
        )

    def previously_rolled_back(self, version: str) -> AliasEntry | None:
        """Return the newest rollback that took the alias from `version`, if there is one."""
        return next(
            (
                entry
                for entry in reversed(self.entries)
                if entry.kind == ROLLBACK and entry.replaced == version
            ),
            None,
        )

    @property
    def periods(self) -> tuple[AliasPeriod, ...]:
        """The periods of all holders, oldest first."""
        periods: list[AliasPeriod] = []
        until: tuple[str | None, str | None] = (None, None)
        for entry in reversed(self.all_entries):
            if entry.is_move:
                periods.append(self._make_period(entry, entry.version, *until))
                until = (entry.at or _UNKNOWN, entry.not_before)
            else:
                version = entry.deleted or entry.version
                periods.append(self._make_period(entry, version, entry.at, entry.not_before))
        return tuple(reversed(periods))

    def _make_period(
        self,
        entry: AliasEntry,
        version: str | None,
        until: str | None,
        until_not_before: str | None,
    ) -> AliasPeriod:
        return AliasPeriod(
            version=version,
            since=entry.at,
            until=until,
            kind=entry.kind,
            replaced=entry.replaced,
            user=entry.user,
            reason=entry.reason,
            data=entry.data,
            data_digest=entry.data_digest,
            figures=entry.figures,
            run_id=entry.run_id,
            run_url=self.run_urls.get(entry.run_id) if entry.run_id else None,
            since_not_before=entry.not_before,
            until_not_before=until_not_before,
        )

    def active_stack(self) -> list[str]:
        """Return the holders that no rollback removed, oldest first; the last one held it last."""
        return compute_active_stack(self.all_entries)

    def previous_holders(self) -> list[str]:
        """Return the versions that a rollback may restore, newest first."""
        return list_previous_holders(self.active_stack(), self.holder)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for display."""
        return {
            "name": self.name,
            "alias": self.alias,
            "holder": self.holder,
            "previous": self.previous,
            "last_holder": self.last_holder,
            "periods": [asdict(period) for period in self.periods],
        }


def compute_active_stack(entries: tuple[AliasEntry, ...]) -> list[str]:
    """Return the holders that remain after `entries`; a rollback removes all above its version."""
    stack: list[str] = []
    for entry in entries:
        if not entry.is_move or entry.version is None:
            continue
        if entry.kind == ROLLBACK and entry.version in stack:
            while stack[-1] != entry.version:
                stack.pop()
            continue
        # A replaced version may have no entry of its own: another program moved the alias to it.
        for version in (entry.replaced, entry.version):
            if version is not None and stack[-1:] != [version]:
                stack.append(version)
    return stack


def list_previous_holders(active_stack: Sequence[str], holder: str | None) -> list[str]:
    """Return the versions in `active_stack` other than `holder`, newest first."""
    return [version for version in reversed(active_stack) if version != holder]


def name_previous_alias(alias: str) -> str:
    """Return the alias of the previous holder: `previous` for `champion`, else `previous-ALIAS`."""
    return "previous" if alias == CHAMPION else f"previous-{alias}"


def is_previous_alias(alias: str) -> bool:
    """Whether `alias` is one that `name_previous_alias` returns."""
    return alias == "previous" or alias.startswith("previous-")


def make_tag_name(alias: str, number: int) -> str:
    """Return the name of the tag that holds entry `number`."""
    return f"trialrun.{alias}.{number:06}"


def read_entries(tags: Mapping[str, str], alias: str) -> tuple[AliasEntry, ...]:
    """Return the entries among the tags of a registered model, oldest first.

    Raises:
        ValueError: An entry is damaged.
    """
    pattern = re.compile(re.escape(f"trialrun.{alias}.") + r"\d{6}")
    texts = [text for name, text in tags.items() if pattern.fullmatch(name)]
    return tuple(sorted(map(parse_entry, texts), key=lambda entry: entry.number))


def format_now() -> str:
    """Return the current time in the format of `AliasEntry.at`."""
    return format_time(time.time())


def format_time(seconds: float) -> str:
    """Return a time since 1970 in the format of `AliasEntry.at`."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
