"""Optuna samplers, seeded by trial number, and pruners."""

import random
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
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

_RANDOM_TRIALS = 10  # before the model-based samplers start; Optuna's default
_ENQUEUED_PARAMS = "fixed_params"  # system attribute of enqueued trials; Optuna's name
_NUM_NUMPY_SEEDS = 2**32
_MAX_DRAWS = 8  # after these a random batch size that fits is used


def make_pruner(plan: SearchPlan) -> "BasePruner":
    """Return the plan's pruner; Optuna cannot prune with several objectives."""
    from optuna import pruners

    from trialrun.tuning.study.hyperband import make_hyperband_pruner

    if plan.config.pruner == "none" or len(plan.objectives) > 1:
        return pruners.NopPruner()
    if plan.config.pruner == "hyperband":
        return make_hyperband_pruner(_max_epochs(plan), plan.base.config.random_seed)
    return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)


def _max_epochs(plan: SearchPlan) -> int:
    searched = plan.space.dimensions.get("epochs")
    if searched is None:
        return plan.base.config.epochs
    return int(searched.largest())


def make_sampler(plan: SearchPlan, number: int, batch_limit: int | None) -> "BaseSampler":
    """Return the sampler of the trial with this seed number, seeded by it and the search's seed.

    With a common seed, two workers would propose the same trial; trial numbers are unique.
    Batch sizes of `batch_limit` or more are not proposed.
    """
    from optuna import samplers

    seed = derive_seed(plan.base.config.random_seed, "sampler", number) % _NUM_NUMPY_SEEDS
    sampler: BaseSampler
    if plan.config.sampler == "tpe":
        # constant_liar counts running trials as bad, so that workers propose different settings.
        sampler = samplers.TPESampler(
            seed=seed, n_startup_trials=_RANDOM_TRIALS, constant_liar=True
        )
    elif plan.config.sampler == "gp":
        sampler = samplers.GPSampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    elif plan.config.sampler == "cmaes":
        sampler = _define_numbered_cmaes()(number, seed)
    else:  # a grid's points are enqueued in the study
        sampler = samplers.RandomSampler(seed=seed)
    if batch_limit is None or BATCH_SIZE not in plan.space.dimensions:
        return sampler
    fallback = _draw_fitting_batch(plan, batch_limit, seed)
    return _MemoryLimitedSampler(sampler, batch_limit, fallback)  # type: ignore[return-value]


@cache
def _define_numbered_cmaes() -> Any:
    """Define the subclass on first use: importing Optuna takes a second."""
    from optuna import Study
    from optuna.samplers import CmaEsSampler
    from optuna.trial import FrozenTrial

    class NumberedCmaEsSampler(CmaEsSampler):
        """CMA-ES that draws with a given number: Optuna's counts retries too."""

        def __init__(self, number: int, seed: int) -> None:
            super().__init__(seed=seed, warn_independent_sampling=False)
            self._number = number

        def sample_relative(
            self, study: Study, trial: FrozenTrial, search_space: "dict[str, BaseDistribution]"
        ) -> dict[str, Any]:
            numbered = copy(trial)
            numbered.number = self._number
            return super().sample_relative(study, numbered, search_space)

    return NumberedCmaEsSampler


def draw_grid_point(plan: SearchPlan, trials: "Sequence[FrozenTrial]") -> dict[str, Any] | None:
    """Return a random grid point that no trial has had; None after the last."""
    # A lost trial may lack some settings, but has those it was enqueued with.
    tried = {format_settings(t.system_attrs.get(_ENQUEUED_PARAMS, t.params)) for t in trials}
    seed = derive_seed(plan.base.config.random_seed, "grid")
    points = plan.space.sample_grid(len(tried) + 1, seed)  # one more than tried: one is new
    return next((point for point in points if format_settings(point) not in tried), None)


def _draw_fitting_batch(plan: SearchPlan, limit: int, seed: int) -> int:
    """Return a random batch size below `limit`; 0 if the space has none."""
    batches = plan.space.dimensions[BATCH_SIZE]
    sizes = [int(batches.value_at(index)) for index in range(batches.num_values() or 0)]
    fitting = [size for size in sizes if size < limit]
    return random.Random(seed).choice(fitting) if fitting else 0


@dataclass(slots=True)
class _MemoryLimitedSampler:
    """A sampler that replaces batch sizes that do not fit in memory.

    Optuna does not accept changed choices within a study, so the distribution stays the same.
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
        for _ in range(_MAX_DRAWS):
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
