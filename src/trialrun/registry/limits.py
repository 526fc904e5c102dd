"""Limits of MLflow's databases on an alias, its history entries and the names of its claims.

PostgreSQL and MySQL count characters and refuse longer text; SQLite has no limits. An entry is cut
before its number is claimed: a claimed entry that a database refuses would block the history.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from trialrun.errors import InvalidParameterError
from trialrun.registry.history import AliasEntry, is_previous_alias

MAX_TAG_LENGTH = 5000  # value of a registered model's tag
MAX_EXPERIMENT_NAME_LENGTH = 256
MAX_ALIAS_LENGTH = 200  # the keys of the tags have 250 characters, and contain the alias
_MAX_USER_LENGTH, _MAX_DATA_LENGTH, _MAX_ID_LENGTH, _MAX_FIGURES_LENGTH = 300, 1000, 100, 1500
_NAME_START_LENGTH = 180
_CUT_MARK = "…"


def check_alias(alias: str) -> None:
    """Check that MLflow can store `alias` and its tags, and that it can have a history.

    Raises:
        InvalidParameterError: `alias` is too long, or it is the alias of a previous holder.
    """
    if is_previous_alias(alias):
        raise InvalidParameterError(
            f"{alias} has no history: trialrun moves it together with the champion",
            "Give the champion's alias.",
        )
    if len(alias) > MAX_ALIAS_LENGTH:
        raise InvalidParameterError(
            f"alias has {len(alias)} characters", f"Use at most {MAX_ALIAS_LENGTH} characters."
        )


def fit_entry(entry: AliasEntry) -> AliasEntry:
    """Return `entry` with its texts cut so that its tag has at most 5,000 characters.

    The reason takes the space that the other fields leave; a cut text ends with `…`. An entry that
    fits is returned as it is.
    """
    fitted = replace(
        entry,
        user=_fit_optional(entry.user, _MAX_USER_LENGTH),
        data=_fit_optional(entry.data, _MAX_DATA_LENGTH),
        data_digest=_fit_optional(entry.data_digest, _MAX_ID_LENGTH),
        run_id=_fit_optional(entry.run_id, _MAX_ID_LENGTH),
        figures=_fit_figures(entry.figures),
        reason="",
    )
    space = MAX_TAG_LENGTH - len(fitted.to_text())
    return replace(fitted, reason=cut_text(entry.reason, space))


def _fit_optional(text: str | None, max_length: int) -> str | None:
    return None if text is None else cut_text(text, max_length)


def cut_text(text: str, max_length: int) -> str:
    """Return `text` cut so that it has at most `max_length` characters in JSON.

    Characters that a database cannot store (NUL, halves of surrogate pairs) become `?`.
    """
    text = text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")
    if _measure_json(text) <= max_length:
        return text
    low, high = 0, len(text)  # the longest start that fits has `low` to `high` characters
    while low < high:
        middle = (low + high + 1) // 2
        if _measure_json(text[:middle]) + len(_CUT_MARK) <= max_length:
            low = middle
        else:
            high = middle - 1
    return text[:low] + _CUT_MARK


def _measure_json(text: str) -> int:
    """Return the number of characters of `text` between the quotes of a JSON string."""
    return len(json.dumps(text, ensure_ascii=False)) - 2


def _fit_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the first figures that fit into the tag; the run of the promotion has all of them."""
    fitted = dict(figures)
    while fitted and len(json.dumps(fitted, ensure_ascii=False)) > _MAX_FIGURES_LENGTH:
        fitted.popitem()
    return fitted


def fit_experiment_name(name: str) -> str:
    """Return `name`, or its start and its hash if it is longer than an experiment's name may be."""
    if len(name) <= MAX_EXPERIMENT_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{name[:_NAME_START_LENGTH]}{_CUT_MARK} {digest}"
