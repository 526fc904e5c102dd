"""A complete search from settings to result, with signals handled throughout."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from trialrun.errors import RunInterruptedError
from trialrun.mlflow_client import create_store_early
from trialrun.runs.signals import interrupt_on_signals
from trialrun.tuning.plan import plan_search

if TYPE_CHECKING:
    from trialrun.tuning.callbacks import SearchCallback
    from trialrun.tuning.result import SearchResult


def plan_and_search(
    settings: Mapping[str, Any],
    open_callback: "Callable[[], AbstractContextManager[SearchCallback]]",
) -> "SearchResult":
    """Plan a search and run it; torch, MLflow and Optuna are imported after planning.

    Raises:
        TrialrunError: The search failed; see the subclasses.
        RunInterruptedError: A signal was received; open runs have ended as KILLED.
    """
    with interrupt_on_signals():
        try:
            plan = plan_search(settings)
            with create_store_early():
                from trialrun.tuning.run import execute_search

            with open_callback() as callback:
                return execute_search(plan, callback)
        except RunInterruptedError:
            from trialrun.tracking import kill_unopened_run

            kill_unopened_run()
            raise
