"""What proposes a trial's settings, and what ends it early: Optuna's, seeded by trial number."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.engine.inputs.seeds import derive_seed
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.space import format_settings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, TrialState

BATCH_SIZE = "batch_size"

_RANDOM_TRIALS = 10  # before a model of the past proposes; Optuna's own default
_PUT_THERE_WITH = "fixed_params"  # Optuna's own name
_NUMPY_SEEDS = 2**32
_TRIES = 8  # draws before a batch that fits is taken at random


def make_pruner(plan: SearchPlan) -> "BasePruner":
    """What ends hopeless trials; none where there are several metrics, which Optuna cannot."""
    from optuna import pruners

    if plan.config.pruner == "none" or len(plan.objectives) > 1:
        return pruners.NopPruner()
    if plan.config.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=_most_epochs(plan))
    return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)


def _most_epochs(plan: SearchPlan) -> int:
    searched = plan.space.dimensions.get("epochs")
    if searched is None:
        return plan.base.config.epochs
    return int(searched.largest())


def make_sampler(plan: SearchPlan, number: int, batch_limit: int | None) -> "BaseSampler":
    """What proposes trial `number`: its draws depend on the search's seed and that number.

    Workers that share a seed would propose the same trial twice; a number is nobody else's.
    Batches of `batch_limit` and more are not proposed.
    """
    from optuna import samplers

    seed = derive_seed(plan.base.config.random_seed, "sampler", number) % _NUMPY_SEEDS
    sampler: BaseSampler
    if plan.config.sampler == "tpe":
        # constant_liar counts running trials as bad, so that workers do not crowd together.
        sampler = samplers.TPESampler(
            seed=seed, n_startup_trials=_RANDOM_TRIALS, constant_liar=True
        )
    elif plan.config.sampler == "gp":
        sampler = samplers.GPSampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    elif plan.config.sampler == "cmaes":
        sampler = samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    else:  # the points of a grid wait in the study
        sampler = samplers.RandomSampler(seed=seed)
    if batch_limit is None or BATCH_SIZE not in plan.space.dimensions:
        return sampler
    fallback = _draw_fitting_batch(plan, batch_limit, seed)
    return _MemoryLimitedSampler(sampler, batch_limit, fallback)  # type: ignore[return-value]


def draw_grid_point(plan: SearchPlan, trials: "Sequence[FrozenTrial]") -> dict[str, Any] | None:
    """A point of the grid that no trial has had, in a random order; None where there is none."""
    # A lost trial may not know all its settings yet, but what it was put there with.
    tried = {format_settings(t.system_attrs.get(_PUT_THERE_WITH, t.params)) for t in trials}
    seed = derive_seed(plan.base.config.random_seed, "grid")
    points = plan.space.grid(len(tried) + 1, seed)  # so many are not all tried
    return next((point for point in points if format_settings(point) not in tried), None)


def _draw_fitting_batch(plan: SearchPlan, limit: int, seed: int) -> int:
    """A batch below `limit` at random, 0 where the space has none."""
    batches = plan.space.dimensions[BATCH_SIZE]
    sizes = [int(batches.value_at(place)) for place in range(batches.num_values() or 0)]
    fitting = [size for size in sizes if size < limit]
    return random.Random(seed).choice(fitting) if fitting else 0


@dataclass(slots=True)
class _MemoryLimitedSampler:
    """A sampler kept from batches that have not fitted in memory; all else is the inner one's.

    Narrowing the distribution would do for a range; Optuna takes no other choices in one study.
    """

    inner: "BaseSampler"
    limit: int
    fallback: int

    def __str__(self) -> str:
        return str(self.inner)

    def reseed_rng(self) -> None:
        self.inner.reseed_rng()

    def infer_relative_search_space(
        self, study: "Study", trial: "FrozenTrial"
    ) -> "dict[str, BaseDistribution]":
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: "dict[str, BaseDistribution]"
    ) -> dict[str, Any]:
        drawn: Mapping[str, Any] = self.inner.sample_relative(study, trial, search_space)
        if drawn.get(BATCH_SIZE, 0) < self.limit:
            return dict(drawn)
        return {**drawn, BATCH_SIZE: self.fallback}

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", name: str, distribution: "BaseDistribution"
    ) -> Any:
        for _ in range(_TRIES):
            value = self.inner.sample_independent(study, trial, name, distribution)
            if name != BATCH_SIZE or value < self.limit:
                return value
        return self.fallback

    def before_trial(self, study: "Study", trial: "FrozenTrial") -> None:
        self.inner.before_trial(study, trial)

    def after_trial(
        self,
        study: "Study",
        trial: "FrozenTrial",
        state: "TrialState",
        values: Sequence[float] | None,
    ) -> None:
        self.inner.after_trial(study, trial, state, values)
