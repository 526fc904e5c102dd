"""Seed replicates: finalists, logged models, noise floor and reports."""

from pathlib import Path
from typing import Any

import pytest

import trialrun
from tests.tuning.conftest import claim_next, make_queue, nested_runs, settings
from trialrun.errors import InvalidParameterError
from trialrun.tuning.callbacks import NoOpSearchCallback, TrialReport
from trialrun.tuning.plan import plan_search
from trialrun.tuning.reporting.seed_replicates import (
    NoiseFloor,
    compute_mean_interval,
    find_finalists,
)


def make_noise_floor(low: float, winner_seconds: float, runner_up_seconds: float) -> NoiseFloor:
    """Return a noise floor: trial 4 beats trial 7, beyond noise if `low` is above 0."""
    return NoiseFloor(
        metric="valid_loss",
        replicates=3,
        winner=4,
        runner_up=7,
        winner_mean=1.0,
        runner_up_mean=1.2,
        difference=0.2,
        low=low,
        high=0.5,
        winner_seconds=winner_seconds,
        runner_up_seconds=runner_up_seconds,
    )


@pytest.mark.parametrize(("runner_up_seconds", "chosen"), [(9.5, 4), (8.9, 7)])
def test_savings_below_a_tenth_do_not_count(runner_up_seconds: float, chosen: int) -> None:
    """Within noise, the runner-up is taken only if it is cheaper by a tenth."""
    floor = make_noise_floor(-0.1, 10.0, runner_up_seconds)
    assert floor.chosen == chosen
    assert f"Trial {chosen} is taken" in floor.text()


@pytest.mark.parametrize(("num_replicates", "is_beyond_noise"), [(2, False), (6, False), (7, True)])
def test_few_equal_differences_are_within_noise(num_replicates: int, is_beyond_noise: bool) -> None:
    """One more image of twelve is beyond noise only with seven seeds."""
    rounded = [1 / 12, 0.5 - 5 / 12] * num_replicates
    low, _high = compute_mean_interval(rounded[:num_replicates])
    assert (low > 0) == is_beyond_noise


def test_replicates_are_rejected_without_logged_models(store: str, colors: Path) -> None:
    """A study that was created without replicates has logged the best model only."""
    raw_settings = settings(colors, study="single", learning_rate="1e-3,1e-2")
    queue = make_queue(store, colors, study="single", learning_rate="1e-3,1e-2")
    queue.complete(claim_next(queue), [1.0])
    with pytest.raises(InvalidParameterError, match="1 best settings only") as caught:
        trialrun.search(**raw_settings, storage=queue.storage.url, replicates=2)
    assert "--from-study single" in caught.value.hint


def test_a_resumed_study_accepts_up_to_its_first_number_of_finalists(
    store: str, colors: Path
) -> None:
    """A study with 3 finalists accepts 2 or none, and rejects 4."""
    for more in ({"replicates": 2}, {}, {"replicates": 2, "finalists": 2}, {"replicates": 2}):
        queue = make_queue(store, colors, study="resumed", **more)
        queue.complete(claim_next(queue), [1.0])
    with pytest.raises(InvalidParameterError, match="3 best settings only"):
        make_queue(store, colors, study="resumed", replicates=2, finalists=4)


def test_equal_settings_are_one_finalist(store: str, colors: Path) -> None:
    """The best two of three settings are finalists, although one has the two best trials."""
    queue = make_queue(store, colors, learning_rate="1e-3,1e-2,2e-2", replicates=2, finalists=2)
    for rate in (1e-3, 1e-3, 1e-2, 2e-2):
        queue.study.enqueue_trial({"learning_rate": rate})
    losses = {1e-3: [1.0, 1.1, 1.15], 1e-2: [1.2], 2e-2: [1.3]}
    for _ in range(5):
        claim = claim_next(queue)
        queue.complete(claim, [losses[claim.settings["learning_rate"]].pop(0)])
    chosen = find_finalists(queue.study.get_trials(), queue.plan)
    assert [trial.params["learning_rate"] for trial in chosen] == [1e-3, 1e-2]


@pytest.mark.slow
def test_every_finalist_has_a_logged_model(store: str, colors: Path) -> None:
    """The second best settings have one, although the best settings were trained three times."""
    raw_settings: dict[str, Any] = {
        "learning_rate": "1e-3,5e-2",
        "trials": 4,
        "pruner": "none",
        "replicates": 2,
        "finalists": 2,
        "study": "twice",
    }
    queue = make_queue(store, colors, **raw_settings)  # enqueues the default of 1e-3
    for rate in (1e-3, 1e-3, 5e-2):
        queue.study.enqueue_trial({"learning_rate": rate})
    result = trialrun.search(**settings(colors, **raw_settings))
    runs = nested_runs(store, result.run_id)
    replicates = [run for run in runs if "replicate" in run.data.tags]
    assert {run.data.params["learning_rate"] for run in replicates} == {"0.001", "0.05"}
    assert result.noise_floor is not None
    assert result.model_uri is not None


class RecordingCallback(NoOpSearchCallback):
    """Records the reports of trials."""

    def __init__(self) -> None:
        self.trials: list[TrialReport] = []

    def on_trial_end(self, report: TrialReport) -> None:
        """Record a report."""
        self.trials.append(report)


@pytest.mark.slow
def test_replicates_are_reported_by_their_trial_and_settings(store: str, colors: Path) -> None:
    """The numbers are those of the finalists, not of the trials in the study of replicates."""
    from trialrun.tuning.run import execute_search

    callback = RecordingCallback()
    execute_search(plan_search(settings(colors, trials=2, pruner="none", replicates=2)), callback)
    reports = [report for report in callback.trials if report.replicate is not None]
    assert sorted((report.number, report.replicate) for report in reports) == [
        (number, index) for number in (0, 1) for index in (0, 1)
    ]
    assert all(0.001 <= report.settings["learning_rate"] <= 0.1 for report in reports)


@pytest.mark.slow
def test_no_replicate_starts_after_the_timeout(store: str, colors: Path) -> None:
    """Third replicates that are requested with a tiny timeout are not trained."""
    raw_settings = settings(colors, trials=2, study="over", pruner="none")
    trialrun.search(**raw_settings, replicates=2)
    result = trialrun.search(**raw_settings, replicates=3, timeout=1e-3)
    runs = nested_runs(store, result.run_id)
    assert sum("replicate" in run.data.tags for run in runs) == 4
    assert result.search_stop_reason == "completed"


@pytest.mark.parametrize(
    ("low", "winner_seconds", "chosen"), [(0.1, 9.0, 4), (-0.1, 9.0, 7), (-0.1, 1.0, 4)]
)
def test_within_noise_the_cheaper_trial_is_chosen(
    low: float, winner_seconds: float, chosen: int
) -> None:
    """The winner is chosen if it is beyond noise or not more expensive."""
    floor = make_noise_floor(low, winner_seconds, runner_up_seconds=3.0)
    assert floor.chosen == chosen
    assert f"rial {chosen}" in floor.text()
