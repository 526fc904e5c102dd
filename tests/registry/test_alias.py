"""Who holds an alias: the log, the stack of those who stand, and races for the next turn."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.errors import InvalidParameterError, PromotionRefusedError, TrackingError
from trialrun.registry import alias as aliases
from trialrun.registry.history import (
    PROMOTION,
    ROLLBACK,
    VOID,
    AliasEntry,
    compute_stack,
    format_now,
    make_tag_name,
    parse_entry,
    read_entries,
)
from trialrun.registry.rollback import restore_previous

NUM_RIVALS = 6


def entry(version: str, replaced: str | None = None, kind: str = PROMOTION) -> AliasEntry:
    """A change of who holds the alias."""
    return AliasEntry(
        number=0,
        kind=kind,
        version=version,
        replaced=replaced,
        at=format_now(),
        user="somebody",
        reason="test",
        figures={"accuracy": 0.9},
    )


@pytest.fixture
def client(store: str, tmp_path: Path) -> Any:
    """A client of a store with a registered model `m` of six versions."""
    import mlflow

    client = mlflow.MlflowClient(store)
    register(client, tmp_path)
    return client


def register(client: Any, folder: Path) -> None:
    """Make the registered model and its versions."""
    client.create_registered_model("m")
    for _ in range(NUM_RIVALS):
        client.create_model_version("m", source=str(folder))


def promote(client: Any, version: str) -> AliasEntry:
    """Move the alias to `version`, whoever holds it."""
    judged = aliases.read_alias_history(client, "m", "champion")
    return aliases.move_alias(client, judged, entry(version, judged.holder))


def holder(client: Any, alias: str = "champion") -> str | None:
    """The version that a plain MLflow client finds under the alias."""
    found = client.get_registered_model("m").aliases.get(alias)
    return None if found is None else str(found)


texts = st.text(max_size=20)


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
def test_an_entry_survives_its_tag(given_entry: AliasEntry) -> None:
    """What is read back is what was written, in any script."""
    assert parse_entry(given_entry.to_text()) == given_entry


@given(st.lists(st.sampled_from(["1", "2", "3", "back"]), max_size=12))
def test_rollbacks_undo_promotions(moves: list[str]) -> None:
    """The stack after promotions and rollbacks is that of a plain undo."""
    entries: list[AliasEntry] = []
    plain: list[str] = []
    for move in moves:
        if move == "back" and len(plain) > 1:
            entries.append(entry(plain[-2], plain[-1], ROLLBACK))
            plain.pop()
        elif move != "back" and (not plain or plain[-1] != move):
            entries.append(entry(move, plain[-1] if plain else None))
            plain.append(move)
    # Going back to a version below another stay of it ends at the nearer one: the same version.
    assert compute_stack(tuple(entries))[-1:] == plain[-1:]


def test_tags_of_other_things_are_no_entries() -> None:
    """Only the alias's own numbered tags are read."""
    tags = {
        make_tag_name("champion", 2): replace(entry("2"), number=2).to_text(),
        make_tag_name("champion", 1): replace(entry("1"), number=1).to_text(),
        "trialrun.champions.000001": "x",
        "trialrun.champion.note": "y",
    }
    assert [each.version for each in read_entries(tags, "champion")] == ["1", "2"]


def test_a_promotion_moves_both_aliases(client: Any) -> None:
    """The new version is champion, the old one keeps `previous`, and both are tagged."""
    promote(client, "1")
    promote(client, "2")
    assert (holder(client), holder(client, "previous")) == ("2", "1")
    new, old = (client.get_model_version("m", number).tags for number in ("2", "1"))
    assert new["champion.promoted.from_version"] == "1"
    assert old["champion.replaced.by_version"] == "2"
    assert new["champion.promoted.user"] == "somebody"
    assert '"accuracy": 0.9' in new["champion.promoted.figures"]


def test_who_judged_another_champion_loses(client: Any) -> None:
    """A promotion that was judged against yesterday's champion is told so, and moves nothing."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    promote(client, "2")
    with pytest.raises(PromotionRefusedError, match="now version 2, not 1"):
        aliases.move_alias(client, judged, entry("3", "1"))
    assert holder(client) == "2"


def test_a_half_done_move_is_finished(client: Any) -> None:
    """Who died after taking a turn has its entry carried out by whoever comes next."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    claimed = replace(entry("2", "1"), number=2, claim="of a process that died")
    assert aliases._claim_turn(client, judged, claimed)
    assert holder(client) == "1"
    found = aliases.read_alias_history(client, "m", "champion")
    assert (found.holder, found.last_number, holder(client)) == ("2", 2, "2")


def test_many_may_finish_the_same_move(client: Any) -> None:
    """Processes that finish one entry at the same time do not break each other."""
    before = aliases.read_alias_history(client, "m", "champion")
    claimed = replace(entry("2"), number=1, claim="of a process that died")
    assert aliases._claim_turn(client, before, claimed)
    with ThreadPoolExecutor(NUM_RIVALS) as pool:
        moves = [
            pool.submit(aliases._apply_entry, client, before, claimed) for _ in range(NUM_RIVALS)
        ]
        assert [move.result() for move in moves] == [claimed] * NUM_RIVALS
    assert holder(client) == "2"


def test_a_latecomer_undoes_nothing(client: Any) -> None:
    """A process that was held up after its turn puts back what others did meanwhile."""
    promote(client, "1")
    before = aliases.read_alias_history(client, "m", "champion")
    late = promote(client, "2")
    promote(client, "3")
    aliases._apply_entry(client, before, late)
    assert holder(client) == "2"
    aliases._reconcile(client, before, late)
    assert (holder(client), holder(client, "previous")) == ("3", "2")


def test_turns_leave_no_experiment_behind(client: Any) -> None:
    """What a turn is taken by is hidden from the list of experiments."""
    promote(client, "1")
    assert not [e.name for e in client.search_experiments() if e.name.startswith("trialrun ")]


def test_a_model_made_anew_starts_over(client: Any, tmp_path: Path) -> None:
    """A registered model deleted and made again under its name has a history of its own."""
    promote(client, "1")
    client.delete_registered_model("m")
    time.sleep(0.01)  # its time of creation, in milliseconds, tells it from the old one
    register(client, tmp_path)
    assert aliases.read_alias_history(client, "m", "champion").entries == ()
    promote(client, "2")
    assert holder(client) == "2"


def test_a_move_from_outside_is_seen(client: Any) -> None:
    """An alias that somebody set by hand counts, and the history says that it was."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "4")
    found = aliases.read_alias_history(client, "m", "champion")
    assert [each.kind for each in found.seen()] == [PROMOTION, "outside"]
    promote(client, "5")
    assert holder(client, "previous") == "4"
    assert restore_previous(client, "m", "champion", "back").version == "4"


def test_rollback_goes_back_step_by_step(client: Any) -> None:
    """A second rollback goes further back, and not forward again; the first has none."""
    for version in ("1", "2", "3"):
        promote(client, version)
    assert restore_previous(client, "m", "champion", "too slow").version == "2"
    assert holder(client, "previous") == "1"
    assert restore_previous(client, "m", "champion", "too slow as well").version == "1"
    assert holder(client, "previous") is None
    with pytest.raises(PromotionRefusedError, match="no champion before version 1"):
        restore_previous(client, "m", "champion", "and again")
    assert client.get_model_version("m", "3").tags["champion.rolled_back.reason"] == "too slow"


def test_rollback_wants_a_reason(client: Any) -> None:
    """An empty reason is refused."""
    with pytest.raises(InvalidParameterError, match="reason"):
        restore_previous(client, "m", "champion", "  ")


def test_rollback_to_a_deleted_version_is_told(client: Any) -> None:
    """What is gone cannot be champion again: with nobody else before, there is no way back."""
    promote(client, "1")
    promote(client, "2")
    client.delete_model_version("m", "1")
    with pytest.raises(TrackingError, match="version 1"):
        restore_previous(client, "m", "champion", "back")
    assert holder(client) == "2"


def promote_all(client: Any, *versions: str) -> None:
    """Make each champion in turn."""
    for version in versions:
        promote(client, version)


def seconds_to_read(client: Any) -> float:
    """How long it takes to learn who holds the alias: 2 s and more where a turn is left taken."""
    started = time.monotonic()
    aliases.read_alias_history(client, "m", "champion")
    return time.monotonic() - started


def test_previous_passes_over_a_deleted_version(client: Any) -> None:
    """A rollback whose version before is gone gives `previous` to none, and is done for good."""
    promote_all(client, "1", "2", "3")
    client.delete_model_version("m", "1")
    assert restore_previous(client, "m", "champion", "too slow").version == "2"
    assert (holder(client), holder(client, "previous")) == ("2", None)
    assert seconds_to_read(client) < aliases._PATIENCE_SECONDS


def test_a_deleted_champion_does_not_stand_in_the_way(client: Any) -> None:
    """Versions after a champion that was deleted are promoted as ever."""
    promote(client, "1")
    client.delete_model_version("m", "1")
    promote_all(client, "2", "3")
    assert (holder(client), holder(client, "previous")) == ("3", "2")


def test_previous_is_the_newest_that_is_there(client: Any) -> None:
    """Of those before the champion the newest that was not deleted."""
    promote_all(client, "1", "2")
    client.delete_model_version("m", "2")
    promote(client, "3")
    assert (holder(client), holder(client, "previous")) == ("3", "1")


def test_a_turn_of_a_deleted_version_is_void(client: Any) -> None:
    """Who died after taking a turn, its version deleted since: nothing moves, the log says so."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    assert aliases._claim_turn(
        client, judged, replace(entry("2", "1"), number=2, claim="of the dead")
    )
    client.delete_model_version("m", "2")
    found = aliases.read_alias_history(client, "m", "champion")
    assert [each.kind for each in found.seen()] == [PROMOTION, VOID]
    assert (found.holder, found.active_stack()) == ("1", ["1"])
    promote(client, "3")
    assert (holder(client), holder(client, "previous")) == ("3", "1")
    periods = aliases.read_alias_history(client, "m", "champion").periods()
    assert periods[0].until == periods[2].entry.at


def test_a_version_deleted_after_it_was_judged_is_told(client: Any) -> None:
    """Its promotion fails as a refusal, and the champion stays."""
    promote(client, "1")
    judged = aliases.read_alias_history(client, "m", "champion")
    client.delete_model_version("m", "2")
    with pytest.raises(PromotionRefusedError, match="version 2 of m was deleted"):
        aliases.move_alias(client, judged, entry("2", "1"))
    assert holder(client) == "1"


def test_rollback_passes_over_deleted_versions(client: Any) -> None:
    """It goes back to the newest champion before that is still there."""
    promote_all(client, "1", "2", "3")
    client.delete_model_version("m", "2")
    assert restore_previous(client, "m", "champion", "too slow").version == "1"


def test_rollback_from_a_deleted_champion(client: Any) -> None:
    """Where the champion itself was deleted, the one before it can be had back."""
    promote_all(client, "1", "2")
    client.delete_model_version("m", "2")
    assert restore_previous(client, "m", "champion", "deleted by mistake").version == "1"
    assert holder(client) == "1"


def test_who_was_set_by_hand_between_two_stays_counts(client: Any) -> None:
    """Champion 1, by hand 5, 1 again: a rollback goes to 5."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "5")
    promote(client, "1")
    assert aliases.read_alias_history(client, "m", "champion").active_stack() == ["1", "5", "1"]
    assert restore_previous(client, "m", "champion", "back").version == "5"


def test_one_version_holds_the_alias_until_now(client: Any) -> None:
    """When a champion was replaced from outside is unknown; only the holder's time has no end."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "5")
    periods = aliases.read_alias_history(client, "m", "champion").periods()
    assert [each.until for each in periods] == ["unknown", None]


def test_an_entry_of_a_newer_trialrun_is_read() -> None:
    """A field that is not known here is no damage."""
    text = entry("1").to_text().replace("{", '{"weather": "fine", ', 1)
    assert parse_entry(text).version == "1"


# One process imports, which takes seconds, and forks: each rival connects for itself.
_RIVALS = """
import os, sys, time, traceback
from pathlib import Path
import mlflow
from trialrun.errors import PromotionRefusedError
from trialrun.registry.alias import read_alias_history, move_alias
from trialrun.registry.history import AliasEntry, format_now
from trialrun.mlflow_client import connect_client

def rival(version, folder, num_rivals):
    client = connect_client()
    judged = read_alias_history(client, "m", "champion")
    (folder / f"ready{version}").touch()
    while len(list(folder.glob("ready*"))) < num_rivals:
        time.sleep(0.001)
    try:
        move_alias(client, judged, AliasEntry(number=0, kind="promotion", version=str(version),
                replaced=judged.holder, at=format_now(), user="rival", reason="race"))
    except PromotionRefusedError as error:
        return str(error)
    return ""

folder, num_rivals = Path(sys.argv[1]), int(sys.argv[2])
children = []
for version in range(1, num_rivals + 1):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            (folder / f"told{version}").write_text(rival(version, folder, num_rivals))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_of_six_promotions_at_once_one_wins(client: Any, tmp_path: Path) -> None:
    """Six processes that judged one champion: one moves the alias, five learn that they lost."""
    done = subprocess.run(
        [sys.executable, "-c", _RIVALS, str(tmp_path), str(NUM_RIVALS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = {n: (tmp_path / f"told{n}").read_text() for n in range(1, NUM_RIVALS + 1)}
    winners = [str(number) for number, text in told.items() if not text]
    assert len(winners) == 1
    assert all(f"now version {winners[0]}, not none" in text for text in told.values() if text)
    found = aliases.read_alias_history(client, "m", "champion")
    assert [each.version for each in found.entries] == winners == [found.holder]
