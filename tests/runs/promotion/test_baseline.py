"""Tests of the choice of the best champion so far."""

from trialrun.registry.history import OUTSIDE, PROMOTION, ROLLBACK, AliasEntry
from trialrun.runs.promotion.baseline import rank_holders


def move(
    version: str, replaced: str | None, difference: float | None = None, kind: str = PROMOTION
) -> AliasEntry:
    """Return a move of the alias, with the measured difference from the replaced version."""
    figures = {} if difference is None else {"accuracy": 0.9, "champion_accuracy": 0.9 - difference}
    return AliasEntry(
        number=0,
        kind=kind,
        version=version,
        replaced=replaced,
        at=None,
        user=None,
        reason="",
        figures=figures,
    )


def test_small_losses_add_up() -> None:
    """After three losses the first version is the best."""
    moves = [move("1", None), move("2", "1", -0.003), move("3", "2", -0.003), move("4", "3", -0.01)]
    assert rank_holders(moves, "accuracy") == ["1", "2", "3", "4"]


def test_gain_makes_the_latest_version_the_best() -> None:
    """A gain that exceeds the losses before it makes its version the best."""
    moves = [move("1", None), move("2", "1", -0.003), move("3", "2", 0.01)]
    assert rank_holders(moves, "accuracy")[0] == "3"


def test_metrics_of_different_test_sets_are_not_compared() -> None:
    """Only differences count: a higher accuracy on an easier test set is no gain."""
    first = move("1", None)
    easier = move("2", "1", -0.005)
    assert rank_holders([first, easier], "accuracy") == ["1", "2"]


def test_unknown_difference_counts_as_none() -> None:
    """After a move by hand the later holder is preferred to an equal earlier one."""
    moves = [move("1", None), move("2", "1", kind=OUTSIDE)]
    assert rank_holders(moves, "accuracy") == ["2", "1"]


def test_rollback_keeps_the_sum_of_its_version() -> None:
    """A version that returns is as good as it was."""
    moves = [move("1", None), move("2", "1", -0.005), move("1", "2", kind=ROLLBACK)]
    assert rank_holders(moves, "accuracy") == ["1", "2"]


def test_lower_log_loss_is_better() -> None:
    """A rise of the log loss is a loss."""
    worse = AliasEntry(
        number=2,
        kind=PROMOTION,
        version="2",
        replaced="1",
        at=None,
        user=None,
        reason="",
        figures={"log_loss": 0.5, "champion_log_loss": 0.4},
    )
    assert rank_holders([move("1", None), worse], "log_loss") == ["1", "2"]
