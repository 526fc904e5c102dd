"""What a study hands out next: nothing twice, nothing beyond what was asked, nothing hopeless."""

import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import trialrun
from tests.tuning.conftest import claim_next, make_queue, nested_runs, settings
from trialrun.errors import OutOfMemoryError, TrialrunError
from trialrun.tuning.study.trial_queue import ClaimedTrial, Finished, NothingYet


def test_the_pruner_sees_every_epoch(store: str, colors: Path) -> None:
    """After five trials, one worse than their median is to be pruned, and counts as done."""
    queue = make_queue(store, colors, trials=6)
    for _ in range(5):
        claim = claim_next(queue)
        assert not queue.report(claim, 1.0, 1)
        assert queue.complete(claim, [1.0])
    claim = claim_next(queue)
    assert queue.report(claim, 2.0, 1)
    assert queue.prune(claim)
    assert isinstance(queue.claim("tester"), Finished)


def test_a_failing_trial_is_replaced(store: str, colors: Path) -> None:
    """A loss that is no number fails its trial; the study still completes as many as asked."""
    result = trialrun.search(
        **settings(colors, trials=2, learning_rate="1e-3,1e30", sampler="random", random_seed=3)
    )
    runs = nested_runs(store, result.run_id)
    failed = [run for run in runs if run.info.status == "FAILED"]
    assert result.num_trials["complete"] == 2
    assert len(failed) == result.num_trials["failed"] == len(runs) - 2
    assert all("NonFiniteLossError" in run.data.tags["error"] for run in failed)


def test_endless_failure_ends_the_search(store: str, colors: Path) -> None:
    """Ten failures in a row are told with the last one's reason."""
    queue = make_queue(store, colors)
    for _ in range(10):
        queue.fail(claim_next(queue), "ValueError: wrong")
    with pytest.raises(TrialrunError, match="ValueError: wrong"):
        queue.claim("tester")


def test_a_study_that_ended_with_failures_goes_on(store: str, colors: Path) -> None:
    """Ten failures of an earlier call do not count; ten new ones end this call as well."""
    queue = make_queue(store, colors)
    for _ in range(10):
        queue.fail(claim_next(queue), "ValueError: wrong")
    again = make_queue(store, colors)
    for _ in range(10):
        again.fail(claim_next(again), "ValueError: wrong again")
    with pytest.raises(TrialrunError, match="10 trials in a row have failed"):
        again.claim("tester")


def test_batches_that_do_not_fit_are_not_tried_again(store: str, colors: Path) -> None:
    """After a batch of 8 did not fit, none as large is proposed, and the count is kept."""
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


def test_no_more_trials_are_begun_than_were_asked_for(store: str, colors: Path) -> None:
    """While the last trials run there is nothing to claim; a lost one is handed out again."""
    queue = make_queue(store, colors, trials=2)
    first, second = claim_next(queue), claim_next(queue)
    assert first.settings != second.settings
    assert isinstance(queue.claim("other"), NothingYet)
    queue.complete(first, [1.0])
    queue.release("tester")
    third = claim_next(queue)
    assert third.settings == second.settings
    assert third.seed_number == second.seed_number
    assert not queue.complete(second, [1.0])
    assert queue.complete(third, [1.0])
    assert isinstance(queue.claim("other"), Finished)


def test_a_trial_is_retried_up_to_a_limit(store: str, colors: Path) -> None:
    """A trial that takes its worker with it each time gives way to another."""
    queue = make_queue(store, colors, retries=1)
    rates = []
    for _ in range(3):
        rates.append(claim_next(queue).settings["learning_rate"])
        queue.release("tester")
    assert rates[0] == rates[1] != rates[2]


def test_a_silent_worker_is_given_up(store: str, colors: Path) -> None:
    """Without a heartbeat for three intervals, a trial is begun again by another worker."""
    queue = make_queue(store, colors, trials=1, heartbeat_seconds=1)
    lost = claim_next(queue)
    deadline = time.monotonic() + 20
    while isinstance(claim := queue.claim("other"), NothingYet):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert isinstance(claim, ClaimedTrial)
    assert claim.settings == lost.settings


def test_a_heartbeat_outlives_a_hiccup_of_the_database(store: str, colors: Path) -> None:
    """The beats' table is gone for two beats; when it is back, the trial shows life again."""
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
        while _last_beat(engine).startswith("2020"):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _last_beat(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text("SELECT heartbeat FROM trial_heartbeats")).scalar())


def test_a_grid_goes_through_all_combinations_once(store: str, colors: Path) -> None:
    """Six combinations are six trials, though more were asked for."""
    raw_settings = {"sampler": "grid", "learning_rate": "1e-3,1e-2", "batch_size": "2,4,8"}
    queue = make_queue(store, colors, trials=50, **raw_settings)
    seen = []
    while isinstance(claim := queue.claim("tester"), ClaimedTrial):
        seen.append(tuple(claim.settings.values()))
        queue.complete(claim, [1.0])
    assert len(seen) == len(set(seen)) == 6


def test_a_grid_is_filled_up_where_points_fail(store: str, colors: Path) -> None:
    """Two of six combinations fail: others take their places until four have completed."""
    raw_settings = {"sampler": "grid", "learning_rate": "1e-3,1e-2", "batch_size": "2,4,8"}
    queue = make_queue(store, colors, trials=4, **raw_settings)
    seen = []
    for _ in range(2):
        failing = claim_next(queue)
        seen.append(tuple(failing.settings.values()))
        queue.fail(failing, "ValueError: wrong")
    while isinstance(claim := queue.claim("tester"), ClaimedTrial):
        seen.append(tuple(claim.settings.values()))
        queue.complete(claim, [1.0])
    assert len(seen) == len(set(seen)) == 6


def test_points_too_large_for_the_memory_do_not_end_a_grid(store: str, colors: Path) -> None:
    """A batch of 8 did not fit: 28 points as large are passed over, four of 32 are trained."""
    raw_settings = {"sampler": "grid", "learning_rate": "1e-3,1e-2,2e-2,3e-2"}
    queue = make_queue(store, colors, trials=50, batch_size="2,8,9,10,11,12,13,14", **raw_settings)
    queue.study.set_user_attr("batch_size_too_large", 8)
    sizes = []
    while not isinstance(claim := queue.claim("tester"), Finished):
        if isinstance(claim, ClaimedTrial):
            sizes.append(claim.settings["batch_size"])
            queue.complete(claim, [1.0])
    assert sizes == [2] * 4


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_samplers_propose_within_the_space(store: str, colors: Path, sampler: str) -> None:
    """Every sampler works trial by trial; the defaults come first."""
    raw_settings = {
        "batch_size": "4,8,16",
        "weight_decay": "1e-5:1e-2",
        "label_smoothing": "0.0:0.3",
    }
    queue = make_queue(store, colors, trials=13, sampler=sampler, **raw_settings)
    for number in range(13):
        claim = claim_next(queue)
        assert queue.plan.space.fitting(claim.settings) == claim.settings
        if number == 0:
            assert claim.settings["learning_rate"] == 0.001
        queue.complete(claim, [float(claim.settings["learning_rate"])])


def test_starts_come_from_a_file_and_from_another_study(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """After the defaults come the file's settings, then the other study's best."""
    other = make_queue(store, colors, study="other", trials=2)
    for loss in (2.0, 1.0):
        claim = claim_next(other)
        other.complete(claim, [loss])
        best = claim.settings["learning_rate"]
    file = tmp_path / "starts.json"
    file.write_text('[{"learning_rate": 0.05}]')
    queue = make_queue(store, colors, study="new", from_study="other", enqueue=str(file))
    rates = [claim_next(queue).settings["learning_rate"] for _ in range(3)]
    assert rates == [0.001, 0.05, best]


def test_starts_that_leave_a_setting_open_do_not_share_it(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """What a start of the file does not say is drawn for each start anew."""
    file = tmp_path / "starts.json"
    file.write_text('[{"batch_size": 4}, {"batch_size": 8}, {"batch_size": 4}]')
    queue = make_queue(store, colors, batch_size="4,8", enqueue=str(file))
    rates = [claim_next(queue).settings["learning_rate"] for _ in range(5)]
    assert len(set(rates)) == 5
