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
from trialrun.tuning.study.trials import (
    find_earlier_run,
    find_next_waiting,
    find_seed_number,
    find_waiting_retry,
    is_done,
    is_taken_over,
    list_ended_runs,
    sort_by_objective,
)

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


def make_retry(number: int, state: TrialState, *history: int, **attributes: Any) -> FrozenTrial:
    """A retry of the trials `history`."""
    trial = make_trial(number, state, **attributes)
    trial.system_attrs = {attrs.RETRY_OF: history[0], attrs.RETRY_HISTORY: list(history)}
    return trial


def test_next_waiting_trial_is_the_first() -> None:
    """Optuna starts waiting trials before it creates new ones."""
    done, waiting = make_trial(0), make_trial(1, TrialState.WAITING)
    assert find_next_waiting([done, waiting, make_trial(2, TrialState.WAITING)]) is waiting
    assert find_next_waiting([done]) is None


def test_retries_start_before_other_trials() -> None:
    """Unless a setting is missing: then the trial was lost while it was sampled."""
    waiting = make_trial(1, TrialState.WAITING)
    retry = make_retry(2, TrialState.WAITING, 0)
    trials = [make_trial(0, TrialState.FAIL), waiting, retry]
    assert find_waiting_retry(trials, ["learning_rate"]) is retry
    assert find_waiting_retry(trials, ["learning_rate", "batch_size"]) is None
    assert find_waiting_retry(trials[:2], ["learning_rate"]) is None


def test_retries_change_no_seed_number() -> None:
    """Trial 3 is the second of its search if trials 1 and 2 are tries of trial 0."""
    lost = make_trial(0, TrialState.FAIL, seed_number=0)
    retries = [
        make_retry(1, TrialState.FAIL, 0, seed_number=0),
        make_retry(2, TrialState.WAITING, 0, 1, seed_number=0),
    ]
    assert find_seed_number(retries[1], [lost, *retries]) == 0
    assert find_seed_number(None, [lost, *retries]) == 1
    assert find_seed_number(make_trial(3, TrialState.WAITING), [lost, *retries]) == 1


def test_seed_numbers_of_an_older_version_are_not_used_twice() -> None:
    """It counted retries too: trial 2 has number 2, although it was the second."""
    lost = make_trial(0, TrialState.FAIL, seed_number=0)
    retry = make_retry(1, TrialState.COMPLETE, 0, seed_number=0)
    assert find_seed_number(None, [lost, retry, make_trial(2, seed_number=2)]) == 3


def test_replicates_have_the_seed_numbers_of_their_seeds() -> None:
    """Replicates with the same seed have the same number."""
    replicate = make_trial(5, TrialState.WAITING, replicate=1)
    assert find_seed_number(replicate, [replicate] * 6) == 1


def test_runs_of_open_trials_and_their_earlier_tries_remain() -> None:
    """All other runs have ended for good: complete, failed, or without a retry left."""
    trials = [
        make_trial(0, TrialState.FAIL, run_id="kept-0"),
        make_retry(1, TrialState.RUNNING, 0, run_id="kept-1"),
        make_trial(2, run_id="complete"),
        make_trial(3, TrialState.FAIL, run_id="failed", **FAILED),
        make_trial(4, TrialState.FAIL, run_id="lost"),
        make_retry(5, TrialState.FAIL, 4, run_id="lost"),
        make_trial(6, TrialState.FAIL, run_id="kept-6"),
    ]
    assert list_ended_runs(trials, max_retries=1) == {"complete", "failed", "lost"}
    assert "kept-6" in list_ended_runs(trials, max_retries=0)


def test_run_of_the_latest_try_is_continued() -> None:
    """A try that was lost before it had a run is passed over; a retry takes the run over."""
    trials = [
        make_trial(0, TrialState.FAIL, run_id="first"),
        make_retry(1, TrialState.FAIL, 0),
        make_retry(2, TrialState.RUNNING, 0, 1),
    ]
    assert find_earlier_run(trials[2], trials) == "first"
    assert not is_taken_over(trials[0], trials)
    assert not is_taken_over(trials[1], trials)
    trials[2].set_user_attr(attrs.RUN_ID, "first")
    assert is_taken_over(trials[0], trials)
    assert not is_taken_over(trials[2], trials)


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
