"""A training from settings to result, with signals heeded from the first moment to the last."""

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
    watch: "Callable[[], AbstractContextManager[RunCallback]] | None" = None,
) -> "TrainResult":
    """Plan and train; torch and MLflow are loaded once the plan stands.

    Raises:
        TrialrunError: As its kinds say.
        RunInterruptedError: A signal came; whatever run there was has ended as KILLED.
    """
    with interrupt_on_signals():
        try:
            plan = plan_training(settings)
            from trialrun.runs.training.run import train_run

            with watch() if watch else nullcontext() as callback:
                return train_run(plan, callback)
        except RunInterruptedError:
            from trialrun.tracking import kill_unopened_run

            kill_unopened_run()
            raise


@contextmanager
def api_call() -> Iterator[None]:
    """A library call: the program keeps its signal handlers, environment and MLflow settings."""
    with limit_spinning_temporarily(), restore_mlflow_settings(), reraise_signal():
        yield
