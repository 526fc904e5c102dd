"""Reports finished trials to the callback of a search."""

from typing import TYPE_CHECKING

from trialrun.tuning.callbacks import SearchCallback, TrialCounts, TrialReport
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.study import attrs
from trialrun.tuning.study.trials import is_done, sort_by_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class TrialLogger:
    """Reports each trial of a study once, after it has ended, and how many there are."""

    def __init__(self, study: "Study", plan: SearchPlan, callback: SearchCallback) -> None:
        self._study, self._plan, self._callback = study, plan, callback
        trials = self._study.get_trials(deepcopy=False)
        self._reported = {trial.number for trial in trials if trial.state.is_finished()}
        self._report_counts(trials)

    def __call__(self) -> None:
        """Report the trials that have ended since the last call."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._reported:
                self._reported.add(trial.number)
                self._callback.on_trial_end(_make_report(trial, trials, self._plan))
        self._report_counts(trials)

    def _report_counts(self, trials: "list[FrozenTrial]") -> None:
        if any(attrs.REPLICATE in trial.user_attrs for trial in trials):
            num_trials = len(trials)  # all are enqueued before the first one starts
        else:
            num_trials = self._plan.config.trials
        self._callback.on_trials(TrialCounts(sum(map(is_done, trials)), num_trials))


def _make_report(
    trial: "FrozenTrial", trials: "list[FrozenTrial]", plan: SearchPlan
) -> TrialReport:
    attributes = trial.user_attrs
    problem = _describe_problem(trial)
    ranked = sort_by_objective(trials, plan.objectives)
    return TrialReport(
        number=attributes.get(attrs.REPLICATE_OF, trial.number),
        replicate=attributes.get(attrs.REPLICATE),
        settings=attributes.get(attrs.SETTINGS, trial.params),
        objectives={
            objective.metric: value
            for objective, value in zip(plan.objectives, trial.values or (), strict=False)
            if not problem
        },
        problem=problem,
        is_best=attrs.REPLICATE not in attributes
        and bool(ranked)
        and ranked[0].number == trial.number,
    )


def _describe_problem(trial: "FrozenTrial") -> str:
    """Return why the trial is not complete; empty if it is."""
    from optuna.trial import TrialState

    attributes = trial.user_attrs
    if trial.state == TrialState.COMPLETE:
        return ""
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
