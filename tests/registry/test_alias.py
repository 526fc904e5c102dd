"""Tests of the alias history: entries, rollbacks, deleted versions and concurrent moves."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.registry.conftest import NUM_PROCESSES, entry, holder, promote, register
from tests.registry.together import run_together
from trialrun.errors import InvalidParameterError, PromotionRefusedError, TrackingError
from trialrun.registry import alias as aliases
from trialrun.registry.claims import claim_entry
from trialrun.registry.history import (
    PROMOTION,
    ROLLBACK,
    SKIPPED,
    AliasEntry,
    compute_active_stack,
    make_tag_name,
    parse_entry,
    read_entries,
)
from trialrun.registry.rollback import restore_previous

texts = st.text(max_size=20)


@pytest.mark.slow
@given(
    st.builds(
        AliasEntry,
        number=st.integers(1, 999_999),
        kind=st.sampled_from([PROMOTION, ROLLBACK]),
        version=texts,
        replaced=st.none() | texts,
        at=texts,
        user=texts,
        reason=texts,
        figures=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3),
    )
)
def test_parsing_returns_the_written_entry(original: AliasEntry) -> None:
    """An entry with any text is equal after writing and parsing its tag."""
    assert parse_entry(original.to_text()) == original


@given(st.lists(st.sampled_from(["1", "2", "3", "back"]), max_size=12))
def test_rollbacks_undo_promotions(moves: list[str]) -> None:
    """The active stack after promotions and rollbacks is that of a plain undo."""
    entries: list[AliasEntry] = []
    plain: list[str] = []
    for move in moves:
        if move == "back" and len(plain) > 1:
            entries.append(entry(plain[-2], plain[-1], ROLLBACK))
            plain.pop()
        elif move != "back" and (not plain or plain[-1] != move):
            entries.append(entry(move, plain[-1] if plain else None))
            plain.append(move)
    # A rollback to a version that is in the stack twice ends at the upper one: the same version.
    assert compute_active_stack(tuple(entries))[-1:] == plain[-1:]


def test_other_tags_are_ignored() -> None:
    """Only the numbered tags of the alias are read."""
    tags = {
        make_tag_name("champion", 2): replace(entry("2"), number=2).to_text(),
        make_tag_name("champion", 1): replace(entry("1"), number=1).to_text(),
        "trialrun.champions.000001": "x",
        "trialrun.champion.note": "y",
    }
    assert [item.version for item in read_entries(tags, "champion")] == ["1", "2"]


def test_promotion_moves_both_aliases(client: Any) -> None:
    """The new version is champion, the old one is `previous`, and both are tagged."""
    promote(client, "1")
    promote(client, "2")
    assert (holder(client), holder(client, "previous")) == ("2", "1")
    new, old = (client.get_model_version("m", number).tags for number in ("2", "1"))
    assert new["champion.promoted.from_version"] == "1"
    assert old["champion.replaced.by_version"] == "2"
    assert new["champion.promoted.user"] == "someone"
    assert '"accuracy": 0.9' in new["champion.promoted.figures"]


def test_outdated_promotion_is_refused(client: Any) -> None:
    """A promotion evaluated against an earlier champion is refused and moves nothing."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    promote(client, "2")
    with pytest.raises(PromotionRefusedError, match="now version 2, not 1"):
        aliases.move_alias(client, judged, entry("3", "1"))
    assert holder(client) == "2"


def test_unfinished_move_is_applied(client: Any) -> None:
    """The entry of a process that died after its claim is applied by the next one."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    claimed = replace(entry("2", "1"), number=2, claim="of a process that died")
    assert claim_entry(client, judged, claimed)
    assert holder(client) == "1"
    found = aliases.read_alias_history(client, "m", "champion")
    assert (found.holder, found.last_number, holder(client)) == ("2", 2, "2")


def test_concurrent_applications_of_one_entry(client: Any) -> None:
    """Processes that apply the same entry at the same time do not disturb each other."""
    before = aliases.read_alias_history(client, "m", "champion")
    claimed = replace(entry("2"), number=1, claim="of a process that died")
    assert claim_entry(client, before, claimed)
    with ThreadPoolExecutor(NUM_PROCESSES) as pool:
        moves = [
            pool.submit(aliases._apply_entry, client, before, claimed) for _ in range(NUM_PROCESSES)
        ]
        assert [move.result() for move in moves] == [claimed] * NUM_PROCESSES
    assert holder(client) == "2"


def test_slow_process_restores_later_moves(client: Any) -> None:
    """A process that applies its entry late restores the moves that others made since."""
    promote(client, "1")
    before = aliases.read_alias_history(client, "m", "champion")
    late = promote(client, "2")
    promote(client, "3")
    aliases._apply_entry(client, before, late)
    assert holder(client) == "2"
    aliases._reconcile(client, before, late)
    assert (holder(client), holder(client, "previous")) == ("3", "2")


def test_claims_are_hidden_experiments(client: Any) -> None:
    """The experiment of a claim is not in the list of active experiments."""
    promote(client, "1")
    assert not [e.name for e in client.search_experiments() if e.name.startswith("trialrun ")]


def test_recreated_model_has_its_own_history(client: Any, tmp_path: Path) -> None:
    """A registered model that is deleted and created again starts with an empty history."""
    promote(client, "1")
    client.delete_registered_model("m")
    time.sleep(0.01)  # the creation time in milliseconds distinguishes the models
    register(client, tmp_path)
    assert aliases.read_alias_history(client, "m", "champion").entries == ()
    promote(client, "2")
    assert holder(client) == "2"


def test_move_by_another_program_is_in_the_history(client: Any) -> None:
    """A version that another program moved the alias to counts as a holder."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "4")
    found = aliases.read_alias_history(client, "m", "champion")
    assert [item.kind for item in found.all_entries] == [PROMOTION, "outside"]
    promote(client, "5")
    assert holder(client, "previous") == "4"
    assert restore_previous(client, "m", "champion", "back").version == "4"


def test_rollback_goes_back_step_by_step(client: Any) -> None:
    """A second rollback goes one version further back; before the first there is none."""
    for version in ("1", "2", "3"):
        promote(client, version)
    assert restore_previous(client, "m", "champion", "too slow").version == "2"
    assert holder(client, "previous") == "1"
    assert restore_previous(client, "m", "champion", "too slow as well").version == "1"
    assert holder(client, "previous") is None
    with pytest.raises(PromotionRefusedError, match="no champion before version 1"):
        restore_previous(client, "m", "champion", "and again")
    assert client.get_model_version("m", "3").tags["champion.rolled_back.reason"] == "too slow"


def test_rollback_needs_a_reason(client: Any) -> None:
    """An empty reason is refused."""
    with pytest.raises(InvalidParameterError, match="reason"):
        restore_previous(client, "m", "champion", "  ")


def test_rollback_to_a_deleted_version_is_an_error(client: Any) -> None:
    """A rollback fails if the only earlier champion was deleted."""
    promote(client, "1")
    promote(client, "2")
    client.delete_model_version("m", "1")
    with pytest.raises(TrackingError, match="version 1"):
        restore_previous(client, "m", "champion", "back")
    assert holder(client) == "2"


def promote_all(client: Any, *versions: str) -> None:
    """Promote the versions in this order."""
    for version in versions:
        promote(client, version)


def seconds_to_read(client: Any) -> float:
    """Return how long reading the history takes: at least 2 s if a claim was not applied."""
    started = time.monotonic()
    aliases.read_alias_history(client, "m", "champion")
    return time.monotonic() - started


def test_previous_is_deleted_if_no_version_is_left(client: Any) -> None:
    """A rollback deletes `previous` if its version was deleted, and leaves no claim."""
    promote_all(client, "1", "2", "3")
    client.delete_model_version("m", "1")
    assert restore_previous(client, "m", "champion", "too slow").version == "2"
    assert (holder(client), holder(client, "previous")) == ("2", None)
    assert seconds_to_read(client) < aliases._CLAIM_TIMEOUT_SECONDS


def test_promotions_after_a_deleted_champion(client: Any) -> None:
    """The deletion of a champion does not affect later promotions."""
    promote(client, "1")
    client.delete_model_version("m", "1")
    promote_all(client, "2", "3")
    assert (holder(client), holder(client, "previous")) == ("3", "2")


def test_previous_is_the_newest_existing_version(client: Any) -> None:
    """A deleted version does not become `previous`."""
    promote_all(client, "1", "2")
    client.delete_model_version("m", "2")
    promote(client, "3")
    assert (holder(client), holder(client, "previous")) == ("3", "1")


def test_claim_of_a_deleted_version_is_skipped(client: Any) -> None:
    """A claimed entry does not move the alias if its version was deleted; the log says so."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    assert claim_entry(
        client, judged, replace(entry("2", "1"), number=2, claim="of a dead process")
    )
    client.delete_model_version("m", "2")
    found = aliases.read_alias_history(client, "m", "champion")
    assert [item.kind for item in found.all_entries] == [PROMOTION, SKIPPED]
    assert (found.holder, found.active_stack()) == ("1", ["1"])
    promote(client, "3")
    assert (holder(client), holder(client, "previous")) == ("3", "1")
    periods = aliases.read_alias_history(client, "m", "champion").periods
    assert periods[0].until == periods[2].since


def test_version_deleted_before_its_move_is_refused(client: Any) -> None:
    """The move is refused, and the champion stays."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    client.delete_model_version("m", "2")
    with pytest.raises(PromotionRefusedError, match="version 2 of m was deleted"):
        aliases.move_alias(client, judged, entry("2", "1"))
    assert holder(client) == "1"


def test_rollback_skips_deleted_versions(client: Any) -> None:
    """A rollback restores the newest earlier champion that exists."""
    promote_all(client, "1", "2", "3")
    client.delete_model_version("m", "2")
    assert restore_previous(client, "m", "champion", "too slow").version == "1"


def test_rollback_from_a_deleted_champion(client: Any) -> None:
    """A rollback works if the champion itself was deleted."""
    promote_all(client, "1", "2")
    client.delete_model_version("m", "2")
    assert restore_previous(client, "m", "champion", "deleted by mistake").version == "1"
    assert holder(client) == "1"


def test_holder_set_by_another_program_is_restored(client: Any) -> None:
    """After champion 1, 5 by another program, and 1 again, a rollback restores 5."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "5")
    promote(client, "1")
    assert aliases.read_alias_history(client, "m", "champion").active_stack() == ["1", "5", "1"]
    assert restore_previous(client, "m", "champion", "back").version == "5"


def test_unknown_fields_of_an_entry_are_ignored() -> None:
    """An entry written by a newer trialrun can be read."""
    text = entry("1").to_text().replace("{", '{"weather": "fine", ', 1)
    assert parse_entry(text).version == "1"


def test_stored_kind_void_is_skipped() -> None:
    """The registry stores skipped entries with the kind `void`."""
    stored = entry("1", kind="void").to_text()
    assert '"kind": "void"' in stored
    assert parse_entry(stored).is_skipped


_RACE = """
from trialrun.errors import PromotionRefusedError
from trialrun.registry.alias import move_alias, read_alias_history
from trialrun.registry.history import AliasEntry, format_now
from trialrun.mlflow_client import connect_client

def compete(version):
    client = connect_client()
    judged = read_alias_history(client, "m", "champion")
    wait_for_all(version)
    try:
        move_alias(client, judged, AliasEntry(number=0, kind="promotion", version=str(version),
                replaced=judged.holder, at=format_now(), user="child", reason="race"))
    except PromotionRefusedError as error:
        return str(error)
    return ""

def act(version):
    (folder / f"result{version}").write_text(compete(version))
"""


@pytest.mark.slow
def test_one_of_six_concurrent_promotions_wins(client: Any, tmp_path: Path) -> None:
    """Of six processes with the same history, one moves the alias and five are refused."""
    run_together(_RACE, tmp_path)
    results = {n: (tmp_path / f"result{n}").read_text() for n in range(1, NUM_PROCESSES + 1)}
    winners = [str(number) for number, text in results.items() if not text]
    assert len(winners) == 1
    assert all(f"now version {winners[0]}, not none" in text for text in results.values() if text)
    found = aliases.read_alias_history(client, "m", "champion")
    assert [item.version for item in found.entries] == winners == [found.holder]
