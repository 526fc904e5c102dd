"""The history of an alias: a log of entries in the tags of the registered model.

Each entry is one tag, `trialrun.<alias>.000007`, with a JSON value. Entries are only ever added and
are numbered from 1 without gaps. If the version of an entry was deleted before it took the alias,
the entry is skipped: it keeps its number, and the alias does not move.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from trialrun.config.promote import CHAMPION

PROMOTION, ROLLBACK, _OUTSIDE, SKIPPED = "promotion", "rollback", "outside", "void"
_UNKNOWN = "unknown"  # the time at which another program moved the alias


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry:
    """One move of the alias to a version.

    `at` is in ISO 8601, UTC. `claim` is unique to one attempt at the move. An entry of kind
    `outside` is not in the log: another program than trialrun moved the alias.
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

    `until` can be None (the version still holds the alias) or "unknown" (another program moved the
    alias). A skipped entry ends when it starts.
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


@dataclass(frozen=True, slots=True)
class AliasHistory:
    """An alias of a registered model: the version that holds it now, and its log.

    `previous` and `run_urls` are for display and stay empty unless the caller looks them up.
    """

    name: str
    alias: str
    created_ms: int  # of the registered model: a new model under an old name has its own log
    holder: str | None
    entries: tuple[AliasEntry, ...]
    previous: str | None = None  # the version that a rollback would restore
    run_urls: Mapping[str, str] = field(default_factory=dict)  # run id to the page of the run

    @property
    def last_number(self) -> int:
        """The number of the newest entry, 0 if the log is empty."""
        return self.entries[-1].number if self.entries else 0

    @property
    def last_assigned(self) -> str | None:
        """The version that trialrun moved the alias to last."""
        return next(
            (entry.version for entry in reversed(self.entries) if not entry.is_skipped), None
        )

    @property
    def periods(self) -> tuple[AliasPeriod, ...]:
        """The periods of all holders, oldest first."""
        periods: list[AliasPeriod] = []
        until = None
        for entry in reversed(self.all_entries):
            if entry.is_skipped:
                periods.append(self._make_period(entry, entry.at))
            else:
                periods.append(self._make_period(entry, until))
                until = entry.at or _UNKNOWN
        return tuple(reversed(periods))

    def _make_period(self, entry: AliasEntry, until: str | None) -> AliasPeriod:
        return AliasPeriod(
            version=entry.version,
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
        )

    @property
    def all_entries(self) -> tuple[AliasEntry, ...]:
        """The log, plus an entry of kind `outside` if another program moved the alias since."""
        if self.holder == self.last_assigned:
            return self.entries
        outside = AliasEntry(
            number=self.last_number + 1,
            kind=_OUTSIDE,
            version=self.holder,
            replaced=self.last_assigned,
            at=None,
            user=None,
            reason="moved by a program other than trialrun",
        )
        return (*self.entries, outside)

    def active_stack(self) -> list[str]:
        """Return the holders that no rollback removed, oldest first; the last one is `holder`."""
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
            "periods": [asdict(period) for period in self.periods],
        }


def compute_active_stack(entries: tuple[AliasEntry, ...]) -> list[str]:
    """Return the holders that remain after `entries`; a rollback removes all above its version."""
    stack: list[str] = []
    for entry in entries:
        if entry.is_skipped or entry.version is None:
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
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
