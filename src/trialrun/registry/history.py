"""Who holds an alias, and who held it before: a log in the registered model's own tags.

One tag an entry, `trialrun.<alias>.000007`, holding JSON. Entries are only ever added, numbered
from 1 without a gap. One whose version was deleted before it took the alias is void: it keeps its
number and moves nothing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from trialrun.config.promote import CHAMPION

PROMOTION, ROLLBACK, _OUTSIDE, VOID = "promotion", "rollback", "outside", "void"
_UNKNOWN = "unknown"  # when an alias was moved from outside, nobody can tell


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry:
    """One change of who holds the alias.

    `at` is in ISO 8601, UTC; `claim` tells this attempt from every other. An entry of kind
    `outside` is not in the log: the alias was moved by something else than trialrun.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names of the fields."""
        return asdict(self)

    def to_text(self) -> str:
        """The tag's value."""
        return json.dumps(self.to_json(), ensure_ascii=False)


def parse_entry(text: str) -> AliasEntry:
    """The inverse of `Entry.to_text`; what a newer trialrun says besides is passed over.

    Raises:
        ValueError: Not an entry.
    """
    known = {item.name for item in fields(AliasEntry)}
    try:
        return AliasEntry(
            **{name: value for name, value in json.loads(text).items() if name in known}
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"no entry of a history: {error}") from error


@dataclass(frozen=True, slots=True)
class AliasPeriod:
    """From when to when a version held the alias; `until` is None for the one that does.

    It is "unknown" where something else than trialrun ended it. A void entry began and ended at
    once.
    """

    entry: AliasEntry
    until: str | None


@dataclass(frozen=True, slots=True)
class AliasHistory:
    """An alias of a registered model: the version that holds it now, and the log."""

    name: str
    alias: str
    created_ms: int  # of the registered model: one made anew under the name has a log of its own
    holder: str | None
    entries: tuple[AliasEntry, ...]

    @property
    def last_number(self) -> int:
        """The number of the newest entry, 0 before the first."""
        return self.entries[-1].number if self.entries else 0

    @property
    def last_given(self) -> str | None:
        """The version that trialrun gave the alias last."""
        return next((each.version for each in reversed(self.entries) if each.kind != VOID), None)

    @property
    def moved_outside(self) -> bool:
        """Whether something else than trialrun moved the alias since the newest entry."""
        return self.holder != self.last_given

    def seen(self) -> tuple[AliasEntry, ...]:
        """The log, and the move from outside where there was one."""
        if not self.moved_outside:
            return self.entries
        outside = AliasEntry(
            number=self.last_number + 1,
            kind=_OUTSIDE,
            version=self.holder,
            replaced=self.last_given,
            at=None,
            user=None,
            reason="moved by something else than trialrun",
        )
        return (*self.entries, outside)

    def periods(self) -> list[AliasPeriod]:
        """Who held the alias from when to when, oldest first."""
        periods: list[AliasPeriod] = []
        until = None
        for entry in reversed(self.seen()):
            if entry.kind == VOID:
                periods.append(AliasPeriod(entry, entry.at))
            else:
                periods.append(AliasPeriod(entry, until))
                until = entry.at or _UNKNOWN
        return periods[::-1]

    def active_stack(self) -> list[str]:
        """The holders that no rollback took back, oldest first; the last one holds the alias."""
        return compute_stack(self.seen())

    def previous_holders(self) -> list[str]:
        """The holders that stood before the present one, newest first."""
        return list_previous_holders(self.active_stack(), self.holder)


def compute_stack(entries: tuple[AliasEntry, ...]) -> list[str]:
    """The versions that stand after `entries`: a rollback takes off all above its target."""
    stack: list[str] = []
    for entry in entries:
        if entry.kind == VOID or entry.version is None:
            continue
        if entry.kind == ROLLBACK and entry.version in stack:
            while stack[-1] != entry.version:
                stack.pop()
            continue
        # What was replaced without an entry (an alias moved from outside) stood, too.
        for version in (entry.replaced, entry.version):
            if version is not None and stack[-1:] != [version]:
                stack.append(version)
    return stack


def list_previous_holders(active_stack: Sequence[str], holder: str | None) -> list[str]:
    """Of those who stand, those other than `holder`, newest first."""
    return [version for version in reversed(active_stack) if version != holder]


def name_previous_alias(alias: str) -> str:
    """The alias of the holder before: `previous` beside `champion`, else `previous-<alias>`."""
    return "previous" if alias == CHAMPION else f"previous-{alias}"


def make_tag_name(alias: str, number: int) -> str:
    """The tag that holds an entry."""
    return f"trialrun.{alias}.{number:06}"


def read_entries(tags: Mapping[str, str], alias: str) -> tuple[AliasEntry, ...]:
    """The entries among a registered model's tags, oldest first.

    Raises:
        ValueError: One of them is damaged.
    """
    pattern = re.compile(re.escape(f"trialrun.{alias}.") + r"\d{6}")
    texts = [text for name, text in tags.items() if pattern.fullmatch(name)]
    return tuple(sorted(map(parse_entry, texts), key=lambda entry: entry.number))


def format_now() -> str:
    """The time as entries hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
