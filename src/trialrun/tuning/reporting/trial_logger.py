"""Reports finished trials to the callback of a search."""

from typing import TYPE_CHECKING

from trialrun.tuning.callbacks import SearchCallback
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.study.trial_queue import (
    CUT,
    ERROR,
    IMPOSSIBLE,
    INFEASIBLE,
    OF_TRIAL,
    REPLICATE,
    SETTINGS,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class TrialLogger:
    """Tells of every trial once, when the storage says that it has ended."""

    def __init__(self, study: "Study", plan: SearchPlan, callback: SearchCallback) -> None:
        self._study, self._plan, self._observer = study, plan, callback
        self._told = {trial.number for trial in self._ended()}

    def __call__(self) -> None:
        """Tell of those that have ended since."""
        for trial in self._ended():
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._observer.on_trial_end(self._line(trial))

    def _ended(self) -> "list[FrozenTrial]":
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished()]

    def _line(self, trial: "FrozenTrial") -> str:
        attributes = trial.user_attrs
        settings = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in attributes.get(SETTINGS, trial.params).items()
        )
        who = f"Trial {attributes.get(OF_TRIAL, trial.number)}"
        if REPLICATE in attributes:
            who += f", replicate {attributes[REPLICATE]}"
        return f"{who}  {_describe_outcome(trial, self._plan)}  {settings}"


def _describe_outcome(trial: "FrozenTrial", plan: SearchPlan) -> str:
    from optuna.trial import TrialState

    attributes = trial.user_attrs
    if trial.state == TrialState.COMPLETE:
        pairs = zip(plan.objectives, trial.values, strict=True)
        return "  ".join(f"{objective.metric} {value:.4g}" for objective, value in pairs)
    if trial.state == TrialState.PRUNED:
        if INFEASIBLE in attributes:
            return "does not fit in memory"
        if IMPOSSIBLE in attributes:
            return f"not trained: {attributes[IMPOSSIBLE]}"
        return f"pruned after epoch {trial.last_step}"
    if ERROR in attributes:
        return f"failed: {attributes[ERROR]}"
    return f"stopped: {attributes[CUT]}" if CUT in attributes else "lost with its worker"
