"""Views of a study's trials: the done ones, the best ones and the next one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trialrun.tuning.objectives import Objective, as_minimized
from trialrun.tuning.study import attrs

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def is_done(trial: "FrozenTrial") -> bool:
    """Whether a trial counts toward the requested number: completed, or pruned by the pruner."""
    from optuna.trial import TrialState

    if trial.state == TrialState.PRUNED:
        return not {attrs.OUT_OF_MEMORY, attrs.IMPOSSIBLE} & trial.user_attrs.keys()
    return bool(trial.state == TrialState.COMPLETE)


def sort_by_objective(
    trials: Sequence["FrozenTrial"], objectives: Sequence[Objective]
) -> list["FrozenTrial"]:
    """Return the completed trials, best first: by the first metric, the next ones, the number."""
    from optuna.trial import TrialState

    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]

    return sorted(
        completed, key=lambda trial: (as_minimized(trial.values, objectives), trial.number)
    )


def find_next_number(trials: Sequence["FrozenTrial"]) -> int:
    """Return the number of the trial that Optuna returns next: the first waiting or a new one."""
    from optuna.trial import TrialState

    waiting = (trial.number for trial in trials if trial.state == TrialState.WAITING)
    return min(waiting, default=len(trials))
