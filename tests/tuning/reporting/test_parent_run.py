"""A search's parent run: it ends truly whoever concludes it, and says what was asked for last."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow

import trialrun
from tests.tuning.conftest import claim_next, make_queue, settings
from trialrun.tuning.callbacks import NoOpSearchCallback
from trialrun.tuning.plan import plan_search
from trialrun.tuning.reporting.parent_run import end_lost_run
from trialrun.tuning.study.study import PARENT_RUN
from trialrun.tuning.study.trial_queue import RUN_ID


def command(raw_settings: dict[str, Any]) -> list[str]:
    """The command line of a search."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in raw_settings.items()]
    return [sys.executable, "-m", "trialrun", "search", *flags]


def opened(store: str) -> str:
    """A run as `mlflow run` opens it."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return str(client.create_run(experiment.experiment_id).info.run_id)


def test_a_joiner_that_fails_to_conclude_ends_the_parent_run(store: str, colors: Path) -> None:
    """Its owner dies without a trial; the joiner has none to conclude with: the run is FAILED."""
    raw_settings = settings(colors, study="dead", timeout=1e-3)
    queue = make_queue(store, colors, study="dead")
    parent = opened(store)
    queue.study.set_user_attr(PARENT_RUN, parent)
    with queue.storage.try_lock("dead/owner"):
        joiner = subprocess.Popen(command(raw_settings), stderr=subprocess.PIPE, text=True)
        assert joiner.stderr is not None
        while "joining" not in (line := joiner.stderr.readline()):
            assert line
    joiner.communicate(timeout=60)
    assert joiner.returncode == 1
    run = mlflow.MlflowClient(store).get_run(parent)
    assert run.info.status == "FAILED"
    assert "none of" in run.data.tags["error"]


def test_the_parent_says_what_the_latest_call_asked_for(store: str, colors: Path) -> None:
    """With more trials, the parameter keeps the first number and the tag has the second."""
    trialrun.search(**settings(colors, trials=1, study="more"))
    result = trialrun.search(**settings(colors, trials=2, study="more"))
    data = mlflow.MlflowClient(store).get_run(result.run_id).data
    assert data.params["trials"] == "1"
    assert data.tags["search.trials"] == "2"


def test_a_signal_while_planning_leaves_with_75(store: str, colors: Path, tmp_path: Path) -> None:
    """SIGTERM while a file is waited for; the run that `mlflow run` has opened is KILLED."""
    pipe, run_id = tmp_path / "starts.json", opened(store)
    os.mkfifo(pipe)
    environment = {**os.environ, "MLFLOW_RUN_ID": run_id}
    process = subprocess.Popen(command(settings(colors, enqueue=pipe)), env=environment)
    with closing(_Writer(pipe)):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert mlflow.MlflowClient(store).get_run(run_id).info.status == "KILLED"


class _Writer:
    """The other end of a pipe, there as soon as somebody reads from it."""

    def __init__(self, pipe: Path) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """Let go of it."""
        os.close(self._end)


class Slow(NoOpSearchCallback):
    """Makes what follows the second trial last until `until`, in seconds since 1970."""

    until = 0.0
    num_told = 0

    def on_trial_end(self, text: str) -> None:
        """Wait with the third."""
        self.num_told += 1
        if self.num_told == 3:
            time.sleep(max(self.until - time.time(), 0))


def test_a_grid_that_ends_in_time_is_exhausted(store: str, colors: Path) -> None:
    """Why the trials ended is decided before the replicates, which outlast the deadline."""
    import trialrun.tuning.workers.trial_runner  # loads torch before the clock runs
    from trialrun.tuning.run import run_search

    assert trialrun.tuning.workers.trial_runner
    grid = {"learning_rate": "1e-3,1e-2", "sampler": "grid", "trials": 3, "pruner": "none"}
    seconds, watching = 8.0, Slow()
    plan = plan_search({**settings(colors, **grid), "replicates": 2, "timeout": seconds})
    watching.until = time.time() + seconds + 1
    assert run_search(plan, watching).search_stop_reason == "exhausted"


def test_a_callers_figures_stay(store: str, colors: Path) -> None:
    """A search closes the pictures it has drawn and no others, and leaves their style alone."""
    from matplotlib import pyplot

    own = pyplot.figure()
    style = dict(pyplot.rcParams)
    try:
        trialrun.search(**settings(colors, trials=1))
        assert pyplot.get_fignums() == [own.number]
        assert dict(pyplot.rcParams) == style
    finally:
        pyplot.close(own)


def test_no_lock_files_are_left(store: str, colors: Path) -> None:
    """Beside the database lies only the file that guards the making of its tables."""
    trialrun.search(**settings(colors, trials=1))
    folder = Path(store.removeprefix("sqlite:///")).parent
    assert [file.name for file in folder.glob("optuna*.lock")] == ["optuna.db.lock"]


def test_a_finished_run_whose_trial_was_lost_stands_for_no_trial(store: str, colors: Path) -> None:
    """The worker died between ending the run and telling the study: the trial is begun again."""
    queue = make_queue(store, colors, study="lost")
    client, run_id = mlflow.MlflowClient(store), opened(store)
    claim = claim_next(queue)
    queue.note(claim, RUN_ID, run_id)
    client.set_terminated(run_id, "FINISHED")
    [trial] = queue.study.get_trials()
    end_lost_run(client, trial)
    assert client.get_run(run_id).info.status == "KILLED"
