"""The program of a worker process: `python -m trialrun.tuning.workers FILE`."""

import json
import logging
import os
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.engine.compute.openmp import limit_spinning
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.fast_exit import FastExit
from trialrun.fast_start import start_fast
from trialrun.runs.datasets.sources import use_copies
from trialrun.runs.signals import interrupt_on_signals, stop_without_parent
from trialrun.tuning.workers.pool import WorkerArgs, write_error

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study

    from trialrun.tuning.plan import SearchPlan
    from trialrun.tuning.study.storage import StudyStorage


def main(file: str) -> int:
    """Train trials with the arguments in `file`; return the exit code."""
    limit_spinning()
    worker_args = WorkerArgs(**json.loads(Path(file).read_text("utf-8")))
    try:
        # The search passes its signals on, and this process ends with it through the pipe.
        with interrupt_on_signals(is_relayed=True, watches_parent=False):
            threading.Thread(target=_terminate_with_parent, daemon=True).start()
            _run_worker(worker_args)
    except RunInterruptedError as interrupt:
        return interrupt.exit_code
    except TrialrunError as error:
        write_error(Path(worker_args.error_file), error)
        return error.exit_code
    return 0


def _terminate_with_parent() -> None:
    """Stop this process when standard input, a pipe from the parent, closes."""
    while os.read(0, 1):  # not sys.stdin: its lock would break the interpreter's shutdown
        pass
    stop_without_parent()


def _run_worker(worker_args: WorkerArgs) -> None:
    from trialrun.tuning.plan import plan_search

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    use_copies(worker_args.copies)
    plan = plan_search(worker_args.raw_settings)
    import torch

    from trialrun.mlflow_client import connect_client
    from trialrun.tuning.study.storage import open_storage, silence_optuna, translate_optuna_errors
    from trialrun.tuning.study.study import load_study
    from trialrun.tuning.workers.trial_runner import assign_device

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    plan = assign_device(plan, worker_args.index)
    client = connect_client()
    storage = open_storage(worker_args.storage, heartbeat_seconds=plan.config.heartbeat_seconds)
    with translate_optuna_errors(storage.url), closing(storage), silence_optuna():
        study = load_study(storage, worker_args.study, plan)
        _train_trials(worker_args, plan, client, storage, study)


def _train_trials(
    worker_args: WorkerArgs,
    plan: "SearchPlan",
    client: "MlflowClient",
    storage: "StudyStorage",
    study: "Study",
) -> None:
    """Train trials of the study until its queue is finished."""
    from trialrun.runs.callbacks import NoOpCallback
    from trialrun.tracking import TrackedRun
    from trialrun.tuning.reporting.parent_run import end_lost_run
    from trialrun.tuning.study.study import open_trial_queue
    from trialrun.tuning.workers.pool import run_trials
    from trialrun.tuning.workers.trial_runner import TrialRunner

    queue = open_trial_queue(
        storage,
        study,
        plan,
        deadline=worker_args.deadline,
        on_stale=partial(end_lost_run, client),
    )
    experiment_id = TrackedRun(client, worker_args.parent_run_id).experiment_id
    runner = TrialRunner(plan, worker_args.parent_run_id, experiment_id, NoOpCallback())
    runner.check_same_data(study, storage)
    run_trials(queue, runner, worker_args.worker, lambda: None)


if __name__ == "__main__":
    fast_exit = FastExit()
    start_fast()
    fast_exit.exit_code = main(sys.argv[1])
    sys.exit(fast_exit.exit_code)
