"""The parent run of a search: final status, tags, plots and lock files."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.processes import ForkedProgram
from tests.tuning.conftest import claim_next, make_queue, settings
from trialrun.tuning.callbacks import NoOpSearchCallback, TrialReport
from trialrun.tuning.plan import plan_search
from trialrun.tuning.reporting.parent_run import end_lost_run
from trialrun.tuning.study import attrs


def command(raw_settings: dict[str, Any]) -> list[str]:
    """Return the command line of a search."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in raw_settings.items()]
    return [sys.executable, "-m", "trialrun", "search", *flags]


def open_project_run(store: str) -> str:
    """Open a run as `mlflow run` does; return its id."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return str(client.create_run(experiment.experiment_id).info.run_id)


@pytest.mark.slow
def test_a_joining_process_without_trials_fails_the_parent_run(store: str, colors: Path) -> None:
    """The owner ends without a trial, and the timeout leaves the joining process none."""
    raw_settings = settings(colors, study="dead", timeout=1e-3)
    queue = make_queue(store, colors, study="dead")
    parent = open_project_run(store)
    queue.study.set_user_attr(attrs.PARENT_RUN, parent)
    with queue.storage.try_lock("dead/owner"):
        joiner = ForkedProgram(command(raw_settings), stderr=subprocess.PIPE)
        assert joiner.stderr is not None
        while "joining" not in (line := joiner.stderr.readline()):
            assert line
    joiner.communicate(timeout=60)
    assert joiner.returncode == 1
    run = mlflow.MlflowClient(store).get_run(parent)
    assert run.info.status == "FAILED"
    assert "none of" in run.data.tags["error"]


@pytest.mark.slow
def test_the_tags_have_the_latest_settings(store: str, colors: Path) -> None:
    """With more trials, the parameter has the first number and the tag the second."""
    trialrun.search(**settings(colors, trials=1, study="more"))
    result = trialrun.search(**settings(colors, trials=2, study="more"))
    data = mlflow.MlflowClient(store).get_run(result.run_id).data
    assert data.params["trials"] == "1"
    assert data.tags["search.trials"] == "2"


@pytest.mark.slow
def test_a_signal_while_planning_exits_with_75(store: str, colors: Path, tmp_path: Path) -> None:
    """SIGTERM while a file is read; the run that `mlflow run` opened is KILLED."""
    pipe, run_id = tmp_path / "enqueued.json", open_project_run(store)
    os.mkfifo(pipe)
    environment = {**os.environ, "MLFLOW_RUN_ID": run_id}
    process = ForkedProgram(command(settings(colors, enqueue=pipe)), env=environment)
    with closing(_Writer(pipe)):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert mlflow.MlflowClient(store).get_run(run_id).info.status == "KILLED"


class _Writer:
    """The writing end of a pipe; waits until a process reads from it."""

    def __init__(self, pipe: Path) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self._end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # no process reads yet
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._end)


class SlowCallback(NoOpSearchCallback):
    """Delays the search after its third trial until `until`, in seconds since 1970."""

    until = 0.0
    num_trials = 0

    def on_trial_end(self, report: TrialReport) -> None:
        """Count the trial and wait after the third."""
        self.num_trials += 1
        if self.num_trials == 3:
            time.sleep(max(self.until - time.time(), 0))


@pytest.mark.slow
def test_a_grid_that_ends_in_time_is_exhausted(store: str, colors: Path) -> None:
    """The stop reason is set before the replicates, which outlast the deadline."""
    import trialrun.tuning.workers.trial_runner  # imports torch before the clock runs
    from trialrun.tuning.run import execute_search

    assert trialrun.tuning.workers.trial_runner
    grid = {"learning_rate": "1e-3,1e-2", "sampler": "grid", "trials": 3, "pruner": "none"}
    seconds, callback = 16.0, SlowCallback()
    plan = plan_search({**settings(colors, **grid), "replicates": 2, "timeout": seconds})
    callback.until = time.time() + seconds + 1
    assert execute_search(plan, callback).search_stop_reason == "exhausted"


@pytest.mark.slow
def test_a_callers_figures_stay_open(store: str, colors: Path) -> None:
    """A search closes its own plots only, and restores the style."""
    from matplotlib import pyplot

    own = pyplot.figure()
    open_figures = pyplot.get_fignums()
    style = dict(pyplot.rcParams)
    try:
        trialrun.search(**settings(colors, trials=1))
        assert pyplot.get_fignums() == open_figures
        assert dict(pyplot.rcParams) == style
    finally:
        pyplot.close(own)


@pytest.mark.slow
def test_plots_of_a_setting_with_one_value_log_nothing(store: str, colors: Path) -> None:
    """Optuna's contour plot would log a warning for each of its empty panels."""
    messages = io.StringIO()
    handler = logging.StreamHandler(messages)
    logging.getLogger("optuna").addHandler(handler)
    values = {"learning_rate": "0.01", "weight_decay": "1e-4,1e-3", "optimizer": "sgd,adamw"}
    try:
        trialrun.search(**settings(colors, trials=1) | values)
    finally:
        logging.getLogger("optuna").removeHandler(handler)
    assert "unique value length" not in messages.getvalue()


@pytest.mark.slow
def test_no_lock_files_are_left(store: str, colors: Path) -> None:
    """The only lock file beside the database is the one for the creation of its tables."""
    trialrun.search(**settings(colors, trials=1))
    folder = Path(store.removeprefix("sqlite:///")).parent
    assert [file.name for file in folder.glob("optuna*.lock")] == ["optuna.db.lock"]


def test_the_finished_run_of_a_lost_trial_is_killed(store: str, colors: Path) -> None:
    """The worker died after it ended the run and before it reported the trial."""
    queue = make_queue(store, colors, study="lost")
    client, run_id = mlflow.MlflowClient(store), open_project_run(store)
    claim = claim_next(queue)
    queue.set_attr(claim, attrs.RUN_ID, run_id)
    client.set_terminated(run_id, "FINISHED")
    [trial] = queue.study.get_trials()
    end_lost_run(client, trial, is_retried=False)
    assert client.get_run(run_id).info.status == "KILLED"
