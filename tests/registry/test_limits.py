"""Tests of the databases' limits, on SQLite (which has none) and on PostgreSQL."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.registry.conftest import entry
from trialrun.errors import InvalidParameterError
from trialrun.registry import claims
from trialrun.registry.alias import move_alias, read_alias_history
from trialrun.registry.history import PROMOTION, AliasEntry, parse_entry
from trialrun.registry.limits import (
    MAX_EXPERIMENT_NAME_LENGTH,
    MAX_TAG_LENGTH,
    cut_text,
    fit_entry,
    fit_experiment_name,
)
from trialrun.registry.rollback import restore_previous

LONG = 'because "quoted"\n' * 400  # 6,800 characters, 8,000 in JSON


@pytest.fixture(scope="module")
def postgres_store(postgres: str) -> str:
    """The URI of an MLflow store in PostgreSQL."""
    import mlflow

    from trialrun.tuning.storage_url import with_driver

    uri = with_driver(postgres)
    mlflow.MlflowClient(uri).search_experiments()
    return uri


@pytest.fixture(params=["store", pytest.param("postgres_store", marks=pytest.mark.slow)])
def any_client(request: pytest.FixtureRequest) -> Any:
    """A client of a store in SQLite, and one of a store in PostgreSQL."""
    import mlflow

    return mlflow.MlflowClient(request.getfixturevalue(request.param))


def register(client: Any, folder: Path, name: str) -> None:
    """Register two versions of a new model."""
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, source=str(folder))


def promote(client: Any, name: str, version: str, **changes: Any) -> AliasEntry:
    """Move the alias to `version`."""
    judged = read_alias_history(client, name, "champion")
    moved = replace(entry(version, judged.holder), **changes)
    return move_alias(client, judged, moved)


texts = st.text(max_size=200)


@given(
    st.builds(
        AliasEntry,
        number=st.integers(1, 999_999),
        kind=st.just(PROMOTION),
        version=st.just("1"),
        replaced=st.none() | st.just("2"),
        at=st.just("2026-11-26T10:00:00.000Z"),
        user=texts.map(lambda text: text * 5),
        reason=texts.map(lambda text: text * 50),
        data=texts.map(lambda text: text * 20),
        figures=st.dictionaries(texts, st.floats(allow_nan=False), max_size=20),
    )
)
def test_entry_fits_its_tag(original: AliasEntry) -> None:
    """The tag of any entry has at most 5,000 characters and can be parsed."""
    text = fit_entry(original).to_text()
    assert len(text) <= MAX_TAG_LENGTH
    assert parse_entry(text).version == "1"


def test_short_entry_is_unchanged() -> None:
    """An entry that fits keeps its texts."""
    short = entry("1")
    assert fit_entry(short) == short


def test_fitting_twice_changes_nothing() -> None:
    """Processes that apply the same claim write the same text."""
    fitted = fit_entry(replace(entry("1"), reason=LONG))
    assert fit_entry(fitted) == fitted
    assert fitted.reason.endswith("…")
    assert len(fitted.to_text()) > MAX_TAG_LENGTH - 3


@given(st.text(st.characters(), max_size=60), st.integers(1, 40))
def test_cut_text_counts_json_characters(text: str, max_length: int) -> None:
    """A cut text fits in JSON, can be encoded, and is a start of the text."""
    cut = cut_text(text, max_length)
    assert len(json.dumps(cut, ensure_ascii=False)) - 2 <= max_length
    assert (
        text.encode("utf-8", "replace")
        .decode()
        .replace("\0", "?")
        .startswith(cut.removesuffix("…"))
    )


def test_undecodable_text_can_be_stored() -> None:
    """A NUL and half of a surrogate pair, which databases refuse, are replaced."""
    assert cut_text("a\0b\udcffc", 100) == "a?b?c"


def test_name_of_a_claim_is_kept_if_it_fits() -> None:
    """Only longer names are replaced; numbers stay distinguishable."""
    assert fit_experiment_name("x" * MAX_EXPERIMENT_NAME_LENGTH) == "x" * MAX_EXPERIMENT_NAME_LENGTH
    first, second = (fit_experiment_name("x" * 250 + f", entry {n}") for n in (1, 2))
    assert len(first) <= MAX_EXPERIMENT_NAME_LENGTH
    assert first != second


def test_long_alias_is_refused_before_the_claim(any_client: Any, tmp_path: Path) -> None:
    """The key of its tags would be too long."""
    register(any_client, tmp_path, "alias")
    with pytest.raises(InvalidParameterError, match="alias has 240 characters"):
        read_alias_history(any_client, "alias", "a" * 240)


def test_long_reason_is_cut(any_client: Any, tmp_path: Path) -> None:
    """Promotion, rollback and history accept a reason of 6,800 characters."""
    register(any_client, tmp_path, "reason")
    promote(any_client, "reason", "1", reason=LONG, user="u" * 5000, data="d" * 5000)
    promote(any_client, "reason", "2", reason=LONG)
    restore_previous(any_client, "reason", "champion", LONG)
    found = read_alias_history(any_client, "reason", "champion")
    assert [item.version for item in found.entries] == ["1", "2", "1"]
    assert all(LONG.startswith(item.reason.removesuffix("…")) for item in found.entries)
    assert all(len(item.reason) > 1500 for item in found.entries)


def test_reason_of_undecodable_bytes(any_client: Any, tmp_path: Path) -> None:
    """A reason with a NUL and bytes that are no UTF-8 is stored."""
    register(any_client, tmp_path, "bytes")
    promote(any_client, "bytes", "1", reason="\0 and \udcff")
    found = read_alias_history(any_client, "bytes", "champion")
    assert found.entries[0].reason == "? and ?"


@pytest.mark.parametrize("length", [200, 230, 256])
def test_long_model_name(any_client: Any, tmp_path: Path, length: int) -> None:
    """A model with the longest name is promoted and rolled back."""
    name = "n" * length
    register(any_client, tmp_path, name)
    promote(any_client, name, "1")
    promote(any_client, name, "2")
    assert restore_previous(any_client, name, "champion", "back").version == "1"


def test_blocked_model_is_healed(any_client: Any, tmp_path: Path) -> None:
    """The claim of an entry that is too long, left by an earlier version, is applied cut."""
    register(any_client, tmp_path, "blocked")
    before = read_alias_history(any_client, "blocked", "champion")
    too_long = replace(entry("1"), number=1, claim="of an earlier version", reason=LONG)
    assert claims.claim_entry(any_client, before, too_long)
    any_client.set_registered_model_alias("blocked", "champion", "1")
    found = read_alias_history(any_client, "blocked", "champion")
    assert (found.holder, found.entries[0].reason[-1]) == ("1", "…")
    promote(any_client, "blocked", "2")
