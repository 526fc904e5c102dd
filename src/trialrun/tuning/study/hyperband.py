"""Hyperband with brackets that depend on the random seed, not on the study's name."""

from functools import cache
from typing import TYPE_CHECKING, Any

from trialrun.engine.inputs.seeds import derive_seed
from trialrun.tuning.study import attrs
from trialrun.tuning.study.trials import is_lost

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


def make_hyperband_pruner(max_epochs: int, random_seed: int) -> "BasePruner":
    """Return a Hyperband pruner that assigns trials to brackets by `random_seed` and seed number.

    Optuna assigns them by a hash of the study's name and the trial's number, so that the same
    search in two studies would prune different trials. A trial that was lost is in no bracket: its
    retry has its values too.
    """
    pruner: BasePruner = _define_seeded_pruner()(random_seed, max_epochs)
    return pruner


@cache
def _define_seeded_pruner() -> Any:
    """Define the subclass on first use: importing Optuna takes a second."""
    from optuna import Study
    from optuna.pruners import HyperbandPruner
    from optuna.trial import FrozenTrial

    class SeededHyperbandPruner(HyperbandPruner):
        """Hyperband with brackets by random seed."""

        def __init__(self, random_seed: int, max_epochs: int) -> None:
            super().__init__(min_resource=1, max_resource=max_epochs)
            self._random_seed = random_seed

        def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
            """Draw a bracket; brackets with a larger budget of trials are likelier.

            Optuna has no public way to change this method; TPE calls it too. A test compares the
            brackets of two studies.
            """
            if not self._pruners:  # Optuna has made no brackets yet
                return 0
            if is_lost(trial):
                return -1
            number = trial.user_attrs.get(attrs.SEED_NUMBER, trial.number)
            number = derive_seed(self._random_seed, "bracket", number)
            number %= self._total_trial_allocation_budget
            for bracket, budget in enumerate(self._trial_allocation_budgets):
                number -= budget
                if number < 0:
                    return bracket
            raise AssertionError("the budgets sum to the total")

    return SeededHyperbandPruner
