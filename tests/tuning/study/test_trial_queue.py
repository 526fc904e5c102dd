"""The trial queue: order and number of trials, retries, limits and samplers."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

import trialrun
from tests.tuning.conftest import claim_next, make_queue, nested_runs, settings
from trialrun.errors import OutOfMemoryError, TrialrunError
from trialrun.tracking import make_heartbeat
from trialrun.tuning.study import attrs
from trialrun.tuning.study.claims import ClaimedTrial, Finished, NothingYet


def test_the_pruner_sees_every_epoch(store: str, colors: Path) -> None:
    """After five trials, one that is worse than their median is pruned and counts as done."""
    queue = make_queue(store, colors, trials=6)
    for _ in range(5):
        claim = claim_next(queue)
        assert not queue.report(claim, 1.0, 1)
        assert queue.complete(claim, [1.0])
    claim = claim_next(queue)
    assert queue.report(claim, 2.0, 1)
    assert queue.prune(claim)
    assert isinstance(queue.claim("tester"), Finished)


@pytest.mark.slow
def test_a_failing_trial_is_replaced(store: str, colors: Path) -> None:
    """A non-finite loss fails its trial; the search still completes the requested number."""
    result = trialrun.search(
        **settings(colors, trials=2, learning_rate="1e-3,1e30", sampler="random", random_seed=3)
    )
    runs = nested_runs(store, result.run_id)
    failed = [run for run in runs if run.info.status == "FAILED"]
    assert result.num_trials["complete"] == 2
    assert len(failed) == result.num_trials["failed"] == len(runs) - 2
    assert all("NonFiniteLossError" in run.data.tags["error"] for run in failed)


def test_ten_failures_in_a_row_end_the_search(store: str, colors: Path) -> None:
    """The error has the reason of the last failure."""
    queue = make_queue(store, colors)
    for _ in range(10):
        queue.fail(claim_next(queue), "ValueError: wrong")
    with pytest.raises(TrialrunError, match="ValueError: wrong"):
        queue.claim("tester")


def test_a_study_that_ended_with_failures_can_be_resumed(store: str, colors: Path) -> None:
    """Ten failures of an earlier call do not count; ten new ones end this call as well."""
    queue = make_queue(store, colors)
    for _ in range(10):
        queue.fail(claim_next(queue), "ValueError: wrong")
    resumed = make_queue(store, colors)
    for _ in range(10):
        resumed.fail(claim_next(resumed), "ValueError: wrong again")
    with pytest.raises(TrialrunError, match="10 trials in a row have failed"):
        resumed.claim("tester")


def test_batch_sizes_that_do_not_fit_are_not_proposed_again(store: str, colors: Path) -> None:
    """After a batch of 8 ran out of memory, only smaller ones are proposed, for all 20 trials."""
    queue = make_queue(store, colors, trials=20, batch_size="2,4,8,16")
    queue.prune_out_of_memory(claim_next(queue), 8)
    sizes = []
    while isinstance(claim := queue.claim("tester"), ClaimedTrial):
        sizes.append(claim.settings["batch_size"])
        queue.complete(claim, [1.0])
    assert len(sizes) == 20
    assert set(sizes) == {2, 4}
    queue.study.set_user_attr("batch_size_too_large", 2)
    queue.num_trials = 21
    with pytest.raises(OutOfMemoryError):
        queue.claim("tester")


def test_no_more_trials_start_than_were_requested(store: str, colors: Path) -> None:
    """While the last trials run there is nothing to claim; a lost one is retried."""
    queue = make_queue(store, colors, trials=2)
    first, second = claim_next(queue), claim_next(queue)
    assert first.settings != second.settings
    assert isinstance(queue.claim("other"), NothingYet)
    queue.complete(first, [1.0])
    queue.requeue_worker("tester")
    third = claim_next(queue)
    assert third.settings == second.settings
    assert third.seed_number == second.seed_number
    assert not queue.complete(second, [1.0])
    assert queue.complete(third, [1.0])
    assert isinstance(queue.claim("other"), Finished)


def test_a_trial_is_retried_up_to_a_limit(store: str, colors: Path) -> None:
    """A trial that kills its worker each time is replaced by another."""
    queue = make_queue(store, colors, retries=1)
    rates = []
    for _ in range(3):
        rates.append(claim_next(queue).settings["learning_rate"])
        queue.requeue_worker("tester")
    assert rates[0] == rates[1] != rates[2]


@pytest.mark.slow
def test_a_trial_without_heartbeat_is_retried(store: str, colors: Path) -> None:
    """After three intervals without a heartbeat, another worker gets the trial."""
    queue = make_queue(store, colors, trials=1, heartbeat_seconds=1)
    lost = claim_next(queue)
    deadline = time.monotonic() + 20
    while isinstance(claim := queue.claim("other"), NothingYet):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert isinstance(claim, ClaimedTrial)
    assert claim.settings == lost.settings


def test_trial_of_a_killed_process_is_retried_first(store: str, colors: Path) -> None:
    """On the same machine: at once, before new trials, with the same seed number."""
    queue = make_queue(store, colors, trials=3)
    lost = claim_next(queue)
    assert isinstance(queue.claim("other"), ClaimedTrial)  # the process of this test is alive
    ended = replace(make_heartbeat(), created=0.0)  # another process has its pid now
    queue.set_attr(lost, attrs.PROCESS, ended.to_tag())
    retry, new = claim_next(queue), claim_next(queue)
    assert retry.settings == lost.settings
    assert (lost.seed_number, retry.seed_number, new.seed_number) == (0, 0, 2)
    assert (lost.number, retry.number, new.number) == (0, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_retries_do_not_change_later_trials(store: str, colors: Path, sampler: str) -> None:
    """Settings and seed numbers are those of a search without interruptions."""
    space = {"sampler": sampler, "weight_decay": "1e-5:1e-2", "trials": 13}
    queue, other = (make_queue(store, colors, study=name, **space) for name in "ab")
    for number in range(13):
        expected, found = claim_next(other), claim_next(queue)
        if number % 4 == 0:
            queue.requeue(found, "stopped")
            found = claim_next(queue)
        assert found.settings == expected.settings
        assert found.seed_number == expected.seed_number == number
        for trials, claim in ((other, expected), (queue, found)):
            trials.complete(claim, [float(claim.settings["learning_rate"])])


def test_hyperband_keeps_the_brackets_of_retried_trials(store: str, colors: Path) -> None:
    """A retry is in the bracket of its first try, whose values do not count twice."""
    queue = make_queue(store, colors, study="h", pruner="hyperband", epochs=9, trials=20)
    pruner: Any = queue.study.pruner
    lost = claim_next(queue)
    queue.report(lost, 0.5, 1)
    bracket = pruner._get_bracket_id(queue.study, queue.study.trials[0])
    queue.requeue(lost, "stopped")
    claim_next(queue)
    failed, retry = queue.study.trials
    assert pruner._get_bracket_id(queue.study, retry) == bracket
    assert pruner._get_bracket_id(queue.study, failed) == -1
    assert not [name for name in retry.system_attrs if "rung" in name]


@pytest.mark.slow
def test_a_heartbeat_survives_a_database_error(store: str, colors: Path) -> None:
    """The table of heartbeats is missing for two heartbeats; then they are recorded again."""
    queue = make_queue(store, colors, heartbeat_seconds=1)
    engine = queue.storage.rdb.engine
    with queue.heartbeat(claim_next(queue)):
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE trial_heartbeats RENAME TO away"))
        time.sleep(2.5)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO trial_heartbeats"))
            connection.execute(text("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00'"))
        deadline = time.monotonic() + 10
        while _last_heartbeat(engine).startswith("2020"):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _last_heartbeat(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text("SELECT heartbeat FROM trial_heartbeats")).scalar())


def test_a_grid_has_each_combination_once(store: str, colors: Path) -> None:
    """Six combinations are six trials, although more were requested."""
    grid = {"sampler": "grid", "learning_rate": "1e-3,1e-2", "batch_size": "2,4,8"}
    queue = make_queue(store, colors, trials=50, **grid)
    points = []
    while isinstance(claim := queue.claim("tester"), ClaimedTrial):
        points.append(tuple(claim.settings.values()))
        queue.complete(claim, [1.0])
    assert len(points) == len(set(points)) == 6


def test_failed_grid_points_are_replaced(store: str, colors: Path) -> None:
    """Two of six combinations fail: the other four are trained."""
    grid = {"sampler": "grid", "learning_rate": "1e-3,1e-2", "batch_size": "2,4,8"}
    queue = make_queue(store, colors, trials=4, **grid)
    points = []
    for _ in range(2):
        failing = claim_next(queue)
        points.append(tuple(failing.settings.values()))
        queue.fail(failing, "ValueError: wrong")
    while isinstance(claim := queue.claim("tester"), ClaimedTrial):
        points.append(tuple(claim.settings.values()))
        queue.complete(claim, [1.0])
    assert len(points) == len(set(points)) == 6


def test_grid_points_that_do_not_fit_in_memory_are_skipped(store: str, colors: Path) -> None:
    """A batch of 8 did not fit: 28 of 32 points are skipped and four are trained."""
    grid = {"sampler": "grid", "learning_rate": "1e-3,1e-2,2e-2,3e-2"}
    queue = make_queue(store, colors, trials=50, batch_size="2,8,9,10,11,12,13,14", **grid)
    queue.study.set_user_attr("batch_size_too_large", 8)
    sizes = []
    while not isinstance(claim := queue.claim("tester"), Finished):
        if isinstance(claim, ClaimedTrial):
            sizes.append(claim.settings["batch_size"])
            queue.complete(claim, [1.0])
    assert sizes == [2] * 4


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_samplers_propose_within_the_space(store: str, colors: Path, sampler: str) -> None:
    """Every sampler proposes valid settings; the defaults come first."""
    space = {
        "batch_size": "4,8,16",
        "weight_decay": "1e-5:1e-2",
        "label_smoothing": "0.0:0.3",
    }
    queue = make_queue(store, colors, trials=13, sampler=sampler, **space)
    for number in range(13):
        claim = claim_next(queue)
        assert queue.plan.space.select_valid(claim.settings) == claim.settings
        if number == 0:
            assert claim.settings["learning_rate"] == 0.001
        queue.complete(claim, [float(claim.settings["learning_rate"])])


def test_settings_are_enqueued_from_a_file_and_another_study(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """After the defaults come the file's settings, then the other study's best."""
    other_queue = make_queue(store, colors, study="other", trials=2)
    for loss in (2.0, 1.0):
        claim = claim_next(other_queue)
        other_queue.complete(claim, [loss])
        best = claim.settings["learning_rate"]
    file = tmp_path / "enqueued.json"
    file.write_text('[{"learning_rate": 0.05}]')
    queue = make_queue(store, colors, study="new", from_study="other", enqueue=str(file))
    rates = [claim_next(queue).settings["learning_rate"] for _ in range(3)]
    assert rates == [0.001, 0.05, best]


def test_missing_settings_of_enqueued_trials_are_sampled(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """A setting that the file does not give is sampled for each trial separately."""
    file = tmp_path / "enqueued.json"
    file.write_text('[{"batch_size": 4}, {"batch_size": 8}, {"batch_size": 4}]')
    queue = make_queue(store, colors, batch_size="4,8", enqueue=str(file))
    rates = [claim_next(queue).settings["learning_rate"] for _ in range(5)]
    assert len(set(rates)) == 5
