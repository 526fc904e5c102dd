"""The order of trials, and the limits on trials that fail."""

from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from trialrun.errors import InvalidParameterError, OutOfMemoryError, TrialrunError
from trialrun.tuning.objectives import Objective
from trialrun.tuning.study import attrs
from trialrun.tuning.study.failure_limits import (
    check_batch_limit,
    check_failed_trials,
    check_impossible_trials,
)
from trialrun.tuning.study.trials import find_next_number, is_done, sort_by_objective

LOSS = Objective("valid_loss", "minimize")
ACCURACY = Objective("valid_accuracy", "maximize")
FAILED: dict[str, Any] = {attrs.ERROR: "ValueError: no"}


def make_trial(
    number: int,
    state: TrialState = TrialState.COMPLETE,
    values: tuple[float, ...] | None = None,
    **attributes: Any,
) -> FrozenTrial:
    """A trial of one searched setting."""
    trial = create_trial(
        state=state,
        values=values or ((0.5,) if state == TrialState.COMPLETE else None),
        params={"learning_rate": 0.1},
        distributions={"learning_rate": FloatDistribution(0.01, 1.0)},
        user_attrs=attributes,
    )
    trial.number = number
    return trial


def make_failed(numbers: range) -> list[FrozenTrial]:
    """Trials that failed by themselves."""
    return [make_trial(number, TrialState.FAIL, **FAILED) for number in numbers]


def test_trials_are_sorted_by_metrics_and_then_by_number() -> None:
    """A later metric decides between equal earlier ones; failed trials are left out."""
    trials = [
        make_trial(0, values=(0.3, 0.7)),
        make_trial(1, TrialState.FAIL),
        make_trial(2, values=(0.2, 0.8)),
        make_trial(3, values=(0.2, 0.9)),
        make_trial(4, values=(0.2, 0.9)),
    ]
    assert [trial.number for trial in sort_by_objective(trials, (LOSS, ACCURACY))] == [3, 4, 2, 0]


@pytest.mark.parametrize(
    ("state", "attributes", "counts"),
    [
        (TrialState.COMPLETE, {}, True),
        (TrialState.PRUNED, {}, True),
        (TrialState.PRUNED, {attrs.OUT_OF_MEMORY: True}, False),
        (TrialState.PRUNED, {attrs.IMPOSSIBLE: "too long"}, False),
        (TrialState.FAIL, FAILED, False),
        (TrialState.RUNNING, {}, False),
    ],
)
def test_only_trained_trials_count(
    state: TrialState, attributes: dict[str, Any], counts: bool
) -> None:
    """A trial that was pruned before it trained does not use up the requested number."""
    assert is_done(make_trial(0, state, **attributes)) is counts


def test_next_number_is_the_first_waiting_trial_or_a_new_one() -> None:
    """Optuna returns waiting trials first."""
    done, waiting = make_trial(0), make_trial(1, TrialState.WAITING)
    assert find_next_number([done, waiting, make_trial(2, TrialState.WAITING)]) == 1
    assert find_next_number([done]) == 1


def test_ten_failures_in_a_row_end_the_search() -> None:
    """A completed trial among the last ten keeps it going."""
    check_failed_trials(make_failed(range(9)))
    check_failed_trials([*make_failed(range(9)), make_trial(9), make_failed(range(10, 11))[0]])
    with pytest.raises(TrialrunError, match="10 trials in a row have failed, the last with Value"):
        check_failed_trials([make_trial(0), *make_failed(range(1, 11))])


def test_hundred_impossible_combinations_in_a_row_end_the_search() -> None:
    """One trained trial among them keeps it going."""
    impossible = [
        make_trial(number, TrialState.PRUNED, None, **{attrs.IMPOSSIBLE: "warm-up"})
        for number in range(100)
    ]
    check_impossible_trials([*impossible[:50], make_trial(50), *impossible[51:]])
    with pytest.raises(InvalidParameterError, match="100 trials in a row"):
        check_impossible_trials(impossible)


def test_batches_that_all_exceed_the_memory_end_the_search() -> None:
    """Batches below the one that did not fit are still tried."""
    check_batch_limit(8, None)
    check_batch_limit(8, 16)
    with pytest.raises(OutOfMemoryError, match="a batch of 8 images did not fit"):
        check_batch_limit(8, 8)
