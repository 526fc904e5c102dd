"""The noise floor: the best settings trained again with other seeds, and whether they differ.

The replicates are a study of their own beside the search's, so that its workers, heartbeats and
retries serve them too. Seed k is the same for every setting, so that differences are paired.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.config import as_text
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.space import format_settings
from trialrun.tuning.study.storage import StudyStorage, silence_optuna, translate_optuna_errors
from trialrun.tuning.study.study import list_directions
from trialrun.tuning.study.trial_queue import (
    OF_TRIAL,
    REPLICATE,
    RESULT,
    SETTINGS,
    sort_by_objective,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_CONFIDENCE = 0.95

_CHEAPER = 0.9  # of the winner's seconds at most: smaller differences are the machine's
_EQUAL = 1e-6  # of their size: what rounding makes of equal differences


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """How the best setting compares with the next, in the first metric, by replicates alone.

    `difference` is by how much the winner is better, positive or not; the interval holds the true
    one with `CONFIDENCE`, were the differences between seeds normal. Costs are seconds of training.
    """

    metric: str
    replicates: int
    winner: int  # trials' numbers
    runner_up: int
    winner_mean: float
    runner_up_mean: float
    difference: float
    low: float
    high: float
    winner_seconds: float
    runner_up_seconds: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the winner is better than seeds alone would make it."""
        return self.low > 0

    @property
    def chosen(self) -> int:
        """The winner, unless it is within noise and the runner-up is cheaper by a tenth."""
        is_cheaper = self.runner_up_seconds <= _CHEAPER * self.winner_seconds
        return self.runner_up if is_cheaper and not self.is_beyond_noise else self.winner

    def facts(self) -> dict[str, Any]:
        """Everything by name."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"is_beyond_noise": self.is_beyond_noise, "chosen": self.chosen}

    def tags(self) -> dict[str, str]:
        """Everything as the parent run's tags."""
        return {f"noise_floor.{name}": as_text(value) for name, value in self.facts().items()}

    def text(self) -> str:
        """One sentence for people."""
        interval = f"{self.difference:.4g} ({_CONFIDENCE:.0%} interval {self.low:.4g} to "
        interval += f"{self.high:.4g}, {self.replicates} seeds)"
        if self.is_beyond_noise:
            return (
                f"Trial {self.winner} beats trial {self.runner_up} beyond seed noise: "
                f"{self.metric} better by {interval}."
            )
        why = "the cheaper one" if self.chosen == self.runner_up else "the other being no cheaper"
        return (
            f"Trial {self.winner} does not beat trial {self.runner_up} beyond seed noise: "
            f"{self.metric} better by {interval}. Trial {self.chosen} is taken, {why} "
            f"({self.winner_seconds:.3g} s against {self.runner_up_seconds:.3g} s)."
        )


def open_replicate_study(storage: StudyStorage, study: "Study", plan: SearchPlan) -> "Study | None":
    """The study in which the finalists wait to be trained again; None with fewer than two."""
    import optuna
    from optuna.trial import TrialState

    chosen = find_finalists(study.get_trials(deepcopy=False), plan)
    if len(chosen) < 2:
        return None
    name = f"{study.study_name}/replicates"
    with translate_optuna_errors(storage.url), silence_optuna(), storage.lock(f"{name}/trials"):
        again = optuna.create_study(
            study_name=name,
            storage=storage.rdb,
            directions=list_directions(plan),
            load_if_exists=True,
        )
        again.set_user_attr(SETTINGS, True)
        there = {
            (trial.user_attrs[OF_TRIAL], trial.user_attrs[REPLICATE])
            for trial in again.get_trials(deepcopy=False)
            if trial.state != TrialState.FAIL
        }
        for number in range(plan.config.replicates):
            for trial in chosen:
                if (trial.number, number) not in there:
                    own = {SETTINGS: trial.params, REPLICATE: number, OF_TRIAL: trial.number}
                    again.enqueue_trial({}, user_attrs=own)
    return again


def find_finalists(trials: Sequence["FrozenTrial"], plan: SearchPlan) -> list["FrozenTrial"]:
    """The best trials of different settings."""
    found: dict[str, FrozenTrial] = {}
    for trial in sort_by_objective(trials, plan.objectives):
        found.setdefault(format_settings(trial.params), trial)
    return list(found.values())[: plan.config.finalists]


def compute_noise_floor(trials: Sequence["FrozenTrial"], plan: SearchPlan) -> NoiseFloor | None:
    """What the replicates say; None where two settings have not two seeds in common."""
    completed = sort_by_objective(trials, plan.objectives)
    objective = plan.objectives[0]
    values: dict[int, dict[int, float]] = defaultdict(dict)
    seconds: dict[int, list[float]] = defaultdict(list)
    for trial in completed:
        of_trial = trial.user_attrs[OF_TRIAL]
        values[of_trial][trial.user_attrs[REPLICATE]] = trial.values[0]
        seconds[of_trial].append(_training_seconds(trial.user_attrs[RESULT]))
    ranked = sorted(values, key=lambda one: objective.sign * statistics.fmean(values[one].values()))
    if len(ranked) < 2:
        return None
    winner, runner_up = ranked[:2]
    shared = sorted(values[winner].keys() & values[runner_up].keys())
    if len(shared) < 2:
        return None
    better = [objective.sign * (values[runner_up][k] - values[winner][k]) for k in shared]
    low, high = compute_mean_interval(better)
    return NoiseFloor(
        metric=objective.metric,
        replicates=len(shared),
        winner=winner,
        runner_up=runner_up,
        winner_mean=statistics.fmean(values[winner][k] for k in shared),
        runner_up_mean=statistics.fmean(values[runner_up][k] for k in shared),
        difference=statistics.fmean(better),
        low=low,
        high=high,
        winner_seconds=statistics.fmean(seconds[winner]),
        runner_up_seconds=statistics.fmean(seconds[runner_up]),
    )


def compute_mean_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's interval of the mean of paired differences.

    Equal differences, as accuracies of few images often are, tell nothing of how much seeds differ:
    their spread is taken to be as large as they are.

    Raises:
        statistics.StatisticsError: There are fewer than two.
    """
    from scipy.stats import t

    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread <= _EQUAL * abs(mean):
        spread = abs(mean)
    num = len(differences)
    half = float(t.ppf((1 + _CONFIDENCE) / 2, num - 1)) * spread / num**0.5
    return mean - half, mean + half


def _training_seconds(result: Mapping[str, Any]) -> float:
    """What a training cost, by its best epoch's time."""
    return float(result["metrics"]["epoch_seconds"]) * int(result["stopped_epoch"])
