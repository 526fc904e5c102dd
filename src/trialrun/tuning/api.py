"""A search from settings to result, with signals heeded from the first moment to the last."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from trialrun.errors import RunInterruptedError
from trialrun.runs.signals import interrupt_on_signals
from trialrun.tuning.plan import plan_search

if TYPE_CHECKING:
    from trialrun.tuning.callbacks import SearchCallback
    from trialrun.tuning.result import SearchResult


def plan_and_search(
    settings: Mapping[str, Any], watch: "Callable[[], AbstractContextManager[SearchCallback]]"
) -> "SearchResult":
    """Plan and search; torch, MLflow and Optuna are loaded once the plan stands.

    Raises:
        TrialrunError: As its kinds say.
        RunInterruptedError: A signal came; whatever runs there were have ended as KILLED.
    """
    with interrupt_on_signals():
        try:
            plan = plan_search(settings)
            from trialrun.tuning.run import run_search

            with watch() as callback:
                return run_search(plan, callback)
        except RunInterruptedError:
            from trialrun.tracking import kill_unopened_run

            kill_unopened_run()
            raise
