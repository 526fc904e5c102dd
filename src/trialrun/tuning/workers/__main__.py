"""A worker process of a search: `python -m trialrun.tuning.workers.__main__ FILE`."""

import json
import logging
import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.engine.compute.openmp import limit_spinning
from trialrun.errors import CutBySignalError, TrialrunError
from trialrun.runs.datasets.sources import take_copies
from trialrun.runs.signals import cut_by_signals
from trialrun.tuning.workers.pool import Orders, answer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study

    from trialrun.tuning.plan import SearchPlan
    from trialrun.tuning.study.storage import Storage


def main(file: str) -> int:
    """Work as the orders in `file` say; the exit code."""
    limit_spinning()
    orders = Orders(**json.loads(Path(file).read_text("utf-8")))
    try:
        with cut_by_signals():
            threading.Thread(target=_end_with_parent, daemon=True).start()
            _work(orders)
    except CutBySignalError as cut:
        return cut.exit_code
    except TrialrunError as error:
        answer(orders.answer, error)
        return error.exit_code
    return 0


def _end_with_parent() -> None:
    """Treat the end of standard input, which the search holds open, as a request to stop."""
    while os.read(0, 1):  # not through sys.stdin, whose lock would break the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _work(orders: Orders) -> None:
    from trialrun.tuning.plan import plan_search

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    take_copies(orders.copies)
    plan = plan_search(orders.given)
    import torch

    from trialrun.mlflow_client import connect
    from trialrun.tuning.study.storage import open_storage, quiet_optuna, storage_errors
    from trialrun.tuning.study.study import load_study
    from trialrun.tuning.workers.trial_runner import shared_device

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    plan = shared_device(plan, orders.place)
    client = connect()
    storage = open_storage(orders.storage, heartbeat_seconds=plan.config.heartbeat_seconds)
    with storage_errors(storage.url), closing(storage), quiet_optuna():
        study = load_study(storage, orders.study, plan)
        _train(orders, plan, client, storage, study)


def _train(
    orders: Orders, plan: "SearchPlan", client: "MlflowClient", storage: "Storage", study: "Study"
) -> None:
    """Take trials until there are no more."""
    from trialrun.runs.callbacks import Silent
    from trialrun.tracking import TrackedRun
    from trialrun.tuning.reporting.parent_run import end_lost
    from trialrun.tuning.study.study import open_desk
    from trialrun.tuning.workers.pool import work
    from trialrun.tuning.workers.trial_runner import Bench

    desk = open_desk(
        storage,
        study,
        plan,
        deadline=orders.deadline,
        on_lost=lambda trial: end_lost(client, trial),
    )
    experiment = TrackedRun(client, orders.parent_run_id).experiment_id
    bench = Bench(plan, orders.parent_run_id, experiment, Silent())
    bench.check_same_data(study)
    work(desk, bench, orders.worker, lambda: None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
