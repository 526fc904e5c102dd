"""A search from settings to result, with signals heeded from the first moment to the last."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from trialrun.errors import CutBySignalError
from trialrun.runs.signals import cut_by_signals
from trialrun.tuning.plan import plan_search

if TYPE_CHECKING:
    from trialrun.tuning.callbacks import SearchObserver
    from trialrun.tuning.result import SearchResult


def run_search(
    settings: Mapping[str, Any], watch: "Callable[[], AbstractContextManager[SearchObserver]]"
) -> "SearchResult":
    """Plan and search; torch, MLflow and Optuna are loaded once the plan stands.

    Raises:
        TrialrunError: As its kinds say.
        CutBySignalError: A signal came; whatever runs there were have ended as KILLED.
    """
    with cut_by_signals():
        try:
            plan = plan_search(settings)
            from trialrun.tuning.run import search

            with watch() as observer:
                return search(plan, observer)
        except CutBySignalError:
            from trialrun.tracking import kill_unopened_run

            kill_unopened_run()
            raise
