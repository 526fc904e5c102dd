"""Tests of changes that other programs made to an alias: found, dated and written down once."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.registry.conftest import entry, holder, promote
from tests.registry.together import run_together
from trialrun.errors import InvalidParameterError, PromotionRefusedError, TrackingError
from trialrun.registry.alias import move_alias, read_alias_history
from trialrun.registry.history import (
    ALIAS_DELETED,
    OUTSIDE,
    PROMOTION,
    ROLLBACK,
    VERSION_DELETED,
    AliasHistory,
    format_now,
)
from trialrun.registry.rollback import restore_previous


def look(client: Any, alias: str = "champion") -> AliasHistory:
    """Return the history after a look at the alias."""
    return read_alias_history(client, "m", alias)


def list_log(history: AliasHistory) -> list[tuple[str, str | None, str | None]]:
    """Return kind, version and replaced version of the entries in the log."""
    return [(item.kind, item.version, item.replaced) for item in history.entries]


def test_move_by_hand_is_written_down(client: Any) -> None:
    """After 2, 3 by hand and 4, the log has all three, and 4 replaced 3."""
    promote(client, "2")
    client.set_registered_model_alias("m", "champion", "3")
    promote(client, "4")
    assert list_log(look(client)) == [
        (PROMOTION, "2", None),
        (OUTSIDE, "3", "2"),
        (PROMOTION, "4", "3"),
    ]


def test_time_of_a_move_by_hand_is_an_interval(client: Any) -> None:
    """The move lies between the last look and the look that found it; its user is unknown."""
    promote(client, "2")
    before = format_now()
    look(client)
    time.sleep(0.01)
    client.set_registered_model_alias("m", "champion", "3")
    moved = format_now()
    time.sleep(0.01)
    found = look(client).entries[-1]
    assert found.not_before is not None
    assert found.at is not None
    assert before <= found.not_before < moved < found.at <= format_now()
    assert found.user is None


def test_periods_show_the_interval(client: Any) -> None:
    """The period before a move by hand ends in the interval in which the next one starts."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "5")
    first, second = look(client).periods
    assert first.until == second.since
    assert first.until_not_before == second.since_not_before is not None
    assert second.until is None


def test_deleted_alias_is_written_down(client: Any) -> None:
    """After the alias was deleted by hand, the version that held it is the last holder."""
    promote(client, "1")
    promote(client, "2")
    client.delete_registered_model_alias("m", "champion")
    found = look(client)
    assert list_log(found)[-1] == (ALIAS_DELETED, None, "2")
    assert (found.holder, found.last_holder) == (None, "2")
    assert str(found.last_holder_note).startswith(
        "champion of m is not set; version 2 held it last"
    )


def test_deleted_holder_is_written_down(client: Any) -> None:
    """After the champion's version was deleted, the newest existing holder is the last one."""
    promote(client, "1")
    promote(client, "2")
    client.delete_model_version("m", "2")
    found = look(client)
    assert list_log(found)[-1] == (VERSION_DELETED, None, "2")
    assert found.last_holder == "1"
    assert found.last_holder_note == (
        "version 2, the last champion of m, was deleted; "
        "version 1 is the newest earlier one that exists"
    )


def test_no_version_is_left_to_compare_with(client: Any) -> None:
    """If all holders were deleted, there is no last holder."""
    promote(client, "1")
    client.delete_model_version("m", "1")
    found = look(client)
    assert found.last_holder is None
    assert str(found.last_holder_note).endswith("no earlier one exists")


def test_deleted_earlier_holder_is_written_down(client: Any) -> None:
    """A deleted version that is no longer the champion gets an entry; the champion stays."""
    promote(client, "1")
    promote(client, "2")
    client.delete_model_version("m", "1")
    found = look(client)
    assert list_log(found)[-1] == (VERSION_DELETED, "2", None)
    assert (found.entries[-1].deleted, found.holder, found.last_holder) == ("1", "2", "2")
    assert [period.version for period in found.periods] == ["1", "2", "1"]
    assert (found.periods[1].until, found.active_stack()) == (None, ["1", "2"])


def test_several_changes_are_found_in_one_look(client: Any) -> None:
    """A move by hand and two deleted versions are three entries, and a second look adds none."""
    for version in ("1", "2", "3"):
        promote(client, version)
    client.set_registered_model_alias("m", "champion", "4")
    client.delete_model_version("m", "1")
    client.delete_model_version("m", "3")
    found = look(client)
    assert [(item.kind, item.deleted) for item in found.entries[3:]] == [
        (OUTSIDE, None),
        (VERSION_DELETED, "1"),
        (VERSION_DELETED, "3"),
    ]
    assert look(client).entries == found.entries


@pytest.mark.parametrize("name", ["bob's", 'the "m"', 'bob\'s "m"'])
def test_deleted_version_of_a_quoted_name(client: Any, name: str) -> None:
    """Quotes in the name of the model do not hide a deleted version."""
    client.rename_registered_model("m", name)
    for version in ("1", "2"):
        judged = read_alias_history(client, name, "champion")
        move_alias(client, judged, entry(version, judged.holder))
    client.delete_model_version(name, "1")
    assert read_alias_history(client, name, "champion").deleted_versions == {"1"}


def test_alias_set_before_the_first_look(client: Any) -> None:
    """An alias that another program set is dated from the creation of the model."""
    client.set_registered_model_alias("m", "champion", "3")
    found = look(client)
    assert list_log(found) == [(OUTSIDE, "3", None)]
    assert found.entries[0].not_before is not None


def test_alias_deleted_and_set_again_by_hand(client: Any) -> None:
    """Each change that a look finds is an entry."""
    promote(client, "1")
    client.delete_registered_model_alias("m", "champion")
    look(client)
    client.set_registered_model_alias("m", "champion", "2")
    assert list_log(look(client))[1:] == [(ALIAS_DELETED, None, "1"), (OUTSIDE, "2", None)]
    assert look(client).active_stack() == ["1", "2"]


def test_rollback_after_the_alias_was_deleted(client: Any) -> None:
    """A rollback restores the version that held the alias last."""
    promote(client, "1")
    promote(client, "2")
    client.delete_registered_model_alias("m", "champion")
    assert restore_previous(client, "m", "champion", "deleted by mistake").version == "2"
    assert look(client).active_stack() == ["1", "2"]
    assert holder(client, "previous") == "1"


def test_rollback_of_a_move_by_hand(client: Any) -> None:
    """A rollback restores the version before the move, and the log says what was rolled back."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "2")
    assert restore_previous(client, "m", "champion", "not tested").version == "1"
    rollback = look(client).previously_rolled_back("2")
    assert rollback is not None
    assert (rollback.kind, rollback.reason) == (ROLLBACK, "not tested")
    assert look(client).previously_rolled_back("1") is None


def test_rolled_back_version_is_not_the_last_holder(client: Any) -> None:
    """After a rollback from 2 to 1 and the deletion of 1, nothing is left to compare with."""
    promote(client, "1")
    promote(client, "2")
    restore_previous(client, "m", "champion", "too slow")
    client.delete_model_version("m", "1")
    assert look(client).last_holder is None


def test_move_by_hand_refuses_an_evaluated_promotion(client: Any) -> None:
    """A promotion that was evaluated before the move by hand is refused."""
    promote(client, "1")
    judged = look(client)
    client.set_registered_model_alias("m", "champion", "2")
    with pytest.raises(PromotionRefusedError, match="now version 2, not 1"):
        move_alias(client, judged, judged.entries[0])


def test_deleted_earlier_holder_refuses_no_promotion(client: Any) -> None:
    """The entry for a deleted version does not count as a move of the alias."""
    promote(client, "1")
    promote(client, "2")
    judged = look(client)
    client.delete_model_version("m", "1")
    look(client)
    moved = move_alias(client, judged, entry("3", "2"))
    assert (moved.number, holder(client)) == (4, "3")


def test_previous_alias_has_no_history(client: Any) -> None:
    """The alias `previous`, which trialrun moves itself, is refused."""
    promote(client, "1")
    with pytest.raises(InvalidParameterError, match="previous has no history"):
        look(client, "previous")


def test_history_without_write_access(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move by hand is shown, not written, if the database is opened read-only."""
    import mlflow

    monkeypatch.chdir(tmp_path)  # MLflow takes `file:` for a folder and creates it
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "2")
    database = tmp_path / "store" / "mlflow.db"
    reader = mlflow.MlflowClient(f"sqlite:///file:{database}?mode=ro&uri=true")
    found = read_alias_history(reader, "m", "champion")
    assert [(item.kind, item.version) for item in found.all_entries] == [
        (PROMOTION, "1"),
        (OUTSIDE, "2"),
    ]
    assert len(found.entries) == 1
    with pytest.raises(TrackingError):
        promote(reader, "3")
    assert len(look(client).entries) == 2


_LOOK_TOGETHER = """
from trialrun.registry.alias import read_alias_history
from trialrun.mlflow_client import connect_client

def act(number):
    client = connect_client()
    wait_for_all(number)
    assert read_alias_history(client, "m", "champion").last_holder == "2"
"""


@pytest.mark.slow
def test_concurrent_looks_write_one_entry(client: Any, tmp_path: Path) -> None:
    """Six processes that look at the same time write a move by hand and a deletion once."""
    promote(client, "1")
    client.set_registered_model_alias("m", "champion", "2")
    client.delete_model_version("m", "1")
    run_together(_LOOK_TOGETHER, tmp_path)
    assert [item.kind for item in look(client).entries] == [PROMOTION, OUTSIDE, VERSION_DELETED]
