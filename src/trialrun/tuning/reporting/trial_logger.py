"""Reports finished trials to the callback of a search."""

from typing import TYPE_CHECKING

from trialrun.tuning.callbacks import SearchCallback
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.study import attrs

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class TrialLogger:
    """Reports each trial of a study once, after it has ended."""

    def __init__(self, study: "Study", plan: SearchPlan, callback: SearchCallback) -> None:
        self._study, self._plan, self._callback = study, plan, callback
        self._reported = {trial.number for trial in self._list_ended()}

    def __call__(self) -> None:
        """Report the trials that have ended since the last call."""
        for trial in self._list_ended():
            if trial.number not in self._reported:
                self._reported.add(trial.number)
                self._callback.on_trial_end(_format_trial(trial, self._plan))

    def _list_ended(self) -> "list[FrozenTrial]":
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished()]


def _format_trial(trial: "FrozenTrial", plan: SearchPlan) -> str:
    attributes = trial.user_attrs
    settings = "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in attributes.get(attrs.SETTINGS, trial.params).items()
    )
    title = f"Trial {attributes.get(attrs.REPLICATE_OF, trial.number)}"
    if attrs.REPLICATE in attributes:
        title += f", replicate {attributes[attrs.REPLICATE]}"
    return f"{title}  {_describe_outcome(trial, plan)}  {settings}"


def _describe_outcome(trial: "FrozenTrial", plan: SearchPlan) -> str:
    from optuna.trial import TrialState

    attributes = trial.user_attrs
    if trial.state == TrialState.COMPLETE:
        pairs = zip(plan.objectives, trial.values, strict=True)
        return "  ".join(f"{objective.metric} {value:.4g}" for objective, value in pairs)
    if trial.state == TrialState.PRUNED:
        if attrs.OUT_OF_MEMORY in attributes:
            return "does not fit in memory"
        if attrs.IMPOSSIBLE in attributes:
            return f"not trained: {attributes[attrs.IMPOSSIBLE]}"
        return f"pruned after epoch {trial.last_step}"
    if attrs.ERROR in attributes:
        return f"failed: {attributes[attrs.ERROR]}"
    if attrs.INTERRUPTED in attributes:
        return f"stopped: {attributes[attrs.INTERRUPTED]}"
    return "lost with its worker"
