"""Entry points for training and library calls, with signal handling around them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from trialrun.engine.compute.openmp import limit_spinning_temporarily
from trialrun.errors import RunInterruptedError
from trialrun.mlflow_client import restore_mlflow_settings
from trialrun.runs.signals import interrupt_on_signals, reraise_signal
from trialrun.runs.training.plan import plan_training

if TYPE_CHECKING:
    from trialrun.runs.callbacks import RunCallback
    from trialrun.runs.training.result import TrainResult


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
            from trialrun.runs.training.run import train_run

            with open_callback() if open_callback else nullcontext() as callback:
                return train_run(plan, callback)
        except RunInterruptedError:
            from trialrun.tracking import kill_unopened_run

            kill_unopened_run()
            raise


@contextmanager
def api_call() -> Iterator[None]:
    """Run a library call; keep the caller's signal handlers, environment and MLflow settings."""
    with limit_spinning_temporarily(), restore_mlflow_settings(), reraise_signal():
        yield
