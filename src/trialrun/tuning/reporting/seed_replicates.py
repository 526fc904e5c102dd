"""Seed replicates: the best settings trained again with other seeds, and the noise floor.

Replicates are the trials of a separate study, so that workers, heartbeats and retries apply to
them as well. All settings share the same seeds, so that differences are paired.
"""

import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trialrun.config import as_text
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.space import format_settings
from trialrun.tuning.study import attrs
from trialrun.tuning.study.storage import StudyStorage, silence_optuna, translate_optuna_errors
from trialrun.tuning.study.study import list_directions
from trialrun.tuning.study.trials import sort_by_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_CONFIDENCE = 0.95

_CHEAPER = 0.9  # largest share of the winner's seconds: smaller savings may be timing noise
_EQUAL = 1e-6  # largest relative spread of equal differences, which rounding causes


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """The comparison of the two best settings by their replicates, in the first metric.

    `difference` is the winner's advantage, which may be negative. `low` and `high` bound its
    confidence interval, for normally distributed differences between seeds.
    """

    metric: str
    replicates: int
    winner: int  # trial number
    runner_up: int
    winner_mean: float
    runner_up_mean: float
    difference: float
    low: float
    high: float
    winner_seconds: float  # of training
    runner_up_seconds: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the winner is better than seed noise explains."""
        return self.low > 0

    @property
    def chosen(self) -> int:
        """The trial to use: the runner-up if within noise and a tenth cheaper, else the winner."""
        is_cheaper = self.runner_up_seconds <= _CHEAPER * self.winner_seconds
        return self.runner_up if is_cheaper and not self.is_beyond_noise else self.winner

    def to_dict(self) -> dict[str, Any]:
        """Return all values by name."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"is_beyond_noise": self.is_beyond_noise, "chosen": self.chosen}

    def tags(self) -> dict[str, str]:
        """Return the decision as tags of the parent run; `to_dict` has all values."""
        values = {"chosen": self.chosen, "is_beyond_noise": self.is_beyond_noise}
        return {f"noise_floor.{name}": as_text(value) for name, value in values.items()}

    def text(self) -> str:
        """Return the comparison in words."""
        interval = f"{self.difference:.4g} ({_CONFIDENCE:.0%} interval {self.low:.4g} to "
        interval += f"{self.high:.4g}, {self.replicates} seeds)"
        if self.is_beyond_noise:
            return (
                f"Trial {self.winner} beats trial {self.runner_up} beyond seed noise: "
                f"{self.metric} better by {interval}."
            )
        reason = "it is cheaper" if self.chosen == self.runner_up else "the other is not cheaper"
        return (
            f"Trial {self.winner} does not beat trial {self.runner_up} beyond seed noise: "
            f"{self.metric} better by {interval}. Trial {self.chosen} is taken: {reason} "
            f"({self.winner_seconds:.3g} s against {self.runner_up_seconds:.3g} s)."
        )


def open_replicate_study(storage: StudyStorage, study: "Study", plan: SearchPlan) -> "Study | None":
    """Open the study of replicates and enqueue missing ones; None with fewer than 2 finalists."""
    import optuna

    finalists = find_finalists(study.get_trials(deepcopy=False), plan)
    if len(finalists) < 2:
        return None
    name = f"{study.study_name}/replicates"
    with translate_optuna_errors(storage.url), silence_optuna(), storage.lock(f"{name}/trials"):
        replicates = optuna.create_study(
            study_name=name,
            storage=storage.rdb,
            directions=list_directions(plan),
            load_if_exists=True,
        )
        replicates.set_user_attr(attrs.SETTINGS, True)
        _enqueue_missing(replicates, finalists, plan.config.replicates)
    return replicates


def _enqueue_missing(
    replicates: "Study", finalists: Sequence["FrozenTrial"], num_replicates: int
) -> None:
    from optuna.trial import TrialState

    existing = {
        (trial.user_attrs[attrs.REPLICATE_OF], trial.user_attrs[attrs.REPLICATE])
        for trial in replicates.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    }
    for index in range(num_replicates):
        for finalist in finalists:
            if (finalist.number, index) not in existing:
                user_attrs = {
                    attrs.SETTINGS: finalist.params,
                    attrs.REPLICATE: index,
                    attrs.REPLICATE_OF: finalist.number,
                }
                replicates.enqueue_trial({}, user_attrs=user_attrs)


def find_finalists(trials: Sequence["FrozenTrial"], plan: SearchPlan) -> list["FrozenTrial"]:
    """Return the best trials, one per combination of settings."""
    by_settings: dict[str, FrozenTrial] = {}
    for trial in sort_by_objective(trials, plan.objectives):
        by_settings.setdefault(format_settings(trial.params), trial)
    return list(by_settings.values())[: plan.config.finalists]


@dataclass(slots=True)
class _Finalist:
    """The replicates of one finalist."""

    values: dict[int, float] = field(default_factory=dict)  # of the first metric, by seed index
    seconds: list[float] = field(default_factory=list)

    def mean(self, seeds: Collection[int]) -> float:
        return statistics.fmean(self.values[seed] for seed in seeds)


def compute_noise_floor(trials: Sequence["FrozenTrial"], plan: SearchPlan) -> NoiseFloor | None:
    """Compare the two best settings; None if there are not two with two seeds in common."""
    objective = plan.objectives[0]
    finalists = _group_replicates(trials, plan)
    ranked = sorted(
        finalists.items(), key=lambda item: objective.sign * item[1].mean(item[1].values)
    )
    if len(ranked) < 2:
        return None
    (winner, best), (runner_up, second) = ranked[:2]
    seeds = sorted(best.values.keys() & second.values.keys())
    if len(seeds) < 2:
        return None
    differences = [objective.sign * (second.values[k] - best.values[k]) for k in seeds]
    low, high = compute_mean_interval(differences)
    return NoiseFloor(
        metric=objective.metric,
        replicates=len(seeds),
        winner=winner,
        runner_up=runner_up,
        winner_mean=best.mean(seeds),
        runner_up_mean=second.mean(seeds),
        difference=statistics.fmean(differences),
        low=low,
        high=high,
        winner_seconds=statistics.fmean(best.seconds),
        runner_up_seconds=statistics.fmean(second.seconds),
    )


def _group_replicates(trials: Sequence["FrozenTrial"], plan: SearchPlan) -> dict[int, _Finalist]:
    """Group the completed replicates by the number of their finalist."""
    finalists: dict[int, _Finalist] = defaultdict(_Finalist)
    for replicate in sort_by_objective(trials, plan.objectives):
        attributes = replicate.user_attrs
        finalist = finalists[attributes[attrs.REPLICATE_OF]]
        finalist.values[attributes[attrs.REPLICATE]] = replicate.values[0]
        finalist.seconds.append(_training_seconds(attributes[attrs.RESULT]))
    return finalists


def compute_mean_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return Student's confidence interval of the mean of paired differences.

    Equal differences, common with accuracies of few images, do not show the variance of seeds:
    their standard deviation is then assumed to be as large as their mean.

    Raises:
        statistics.StatisticsError: There are fewer than two differences.
    """
    from scipy.stats import t

    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread <= _EQUAL * abs(mean):
        spread = abs(mean)
    num = len(differences)
    half = float(t.ppf((1 + _CONFIDENCE) / 2, num - 1)) * spread / num**0.5
    return mean - half, mean + half


def _training_seconds(result: Mapping[str, Any]) -> float:
    """Estimate a training's duration: its number of epochs times the best epoch's duration."""
    return float(result["metrics"]["epoch_seconds"]) * int(result["stopped_epoch"])
