"""Entry points for training and library calls, with signal handling around them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from trialrun.config import build_config
from trialrun.config.resume import ResumeConfig
from trialrun.distributed import read_ranks
from trialrun.engine.compute.openmp import limit_spinning_temporarily
from trialrun.errors import RunInterruptedError
from trialrun.mlflow_client import create_store_early, restore_mlflow_settings
from trialrun.runs.signals import interrupt_on_signals, reraise_signal
from trialrun.runs.training.plan import plan_training

if TYPE_CHECKING:
    from trialrun.runs.callbacks import RunCallback
    from trialrun.runs.recovery.replay import ReplayedStep
    from trialrun.runs.training.outcome.result import TrainResult
    from trialrun.runs.training.plan import TrainPlan


def run_training(
    settings: Mapping[str, Any],
    open_callback: "Callable[[], AbstractContextManager[RunCallback]] | None" = None,
) -> "TrainResult":
    """Plan and train; load torch and MLflow only after the settings have been checked.

    `open_callback` creates the run's callback, which is closed at the end.

    Raises:
        TrialrunError: Settings, data, training or MLflow fail (see its subclasses).
        RunInterruptedError: A signal arrived; the run, if there is one, has ended as KILLED.
    """
    with interrupt_on_signals():
        try:
            plan = plan_training(settings)
            with open_callback() if open_callback else nullcontext() as callback:
                return _train(plan, callback)
        except RunInterruptedError:
            _kill_unopened_run()
            raise


def _train(plan: "TrainPlan", callback: "RunCallback | None") -> "TrainResult":
    """Train as planned; with `smoke`, run the smoke test of the plan."""
    started = time.monotonic()
    with _create_store_early(plan):
        from trialrun.runs.training.run import train_run

    if not plan.config.smoke:
        return train_run(plan, callback)
    from trialrun.runs.training.smoke import check_registry, complete_smoke_test

    check_registry(plan.config)
    return complete_smoke_test(plan, train_run(plan, callback), started)


def _create_store_early(plan: "TrainPlan") -> AbstractContextManager[None]:
    """Create a missing store beside the block, unless this process will not open one."""
    if plan.config.offline or read_ranks(os.environ).rank:
        return nullcontext()
    return create_store_early()


def _kill_unopened_run() -> None:
    from trialrun.tracking import kill_unopened_run

    kill_unopened_run()


def resume_training(
    run_id: str | None,
    settings: Mapping[str, Any],
    open_callback: "Callable[[], AbstractContextManager[RunCallback]] | None" = None,
) -> "TrainResult":
    """Continue a training run; None is the newest interrupted one.

    Raises:
        TrialrunError: The run cannot be continued, or fails (see `runs.recovery.resume`).
        RunInterruptedError: A signal arrived; the run has ended as KILLED and can be resumed.
    """
    config = build_config(ResumeConfig, settings)
    with interrupt_on_signals():
        try:
            from trialrun.runs.recovery.resume import resume_run

            return resume_run(run_id, config, open_callback)
        except RunInterruptedError:
            _kill_unopened_run()  # that of `mlflow run . -e resume`
            raise


def replay_training(
    run_id: str | None,
    settings: Mapping[str, Any],
    open_callback: "Callable[[], AbstractContextManager[RunCallback]]",
) -> "ReplayedStep":
    """Repeat the step at which the loss of a run was not finite; None is the newest such run.

    Raises:
        TrialrunError: The step cannot be repeated (see `runs.recovery.replay`).
    """
    config = build_config(ResumeConfig, settings)
    with interrupt_on_signals():
        from trialrun.runs.recovery.replay import replay_run

        with open_callback() as callback:
            return replay_run(run_id, config, callback)


@contextmanager
def api_call() -> Iterator[None]:
    """Run a library call; keep the caller's signal handlers, environment and MLflow settings."""
    with limit_spinning_temporarily(), restore_mlflow_settings(), reraise_signal():
        yield
