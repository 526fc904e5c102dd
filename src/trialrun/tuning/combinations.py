"""Checks of settings that do not go together: with the sampler, the pruner, or each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from trialrun.config import NONE_TEXT, SearchConfig, Setting, as_text
from trialrun.config.train import WARM_UP_LENGTHS
from trialrun.errors import InvalidParameterError, TrialrunError
from trialrun.tuning.objectives import Objective
from trialrun.tuning.space import Choice, Dimension, Space

_MIN_CMAES_RANGES = 2  # Optuna draws a single range at random


def check_sampler(
    config: SearchConfig, space: Space, objectives: Sequence[Objective]
) -> list[TrialrunError]:
    """Return the errors of a sampler or pruner with this space and these objectives."""
    problems: list[TrialrunError] = []
    if config.sampler == "grid" and (uncountable := space.list_uncountable()):
        problems.append(
            InvalidParameterError(
                f"sampler=grid needs a finite number of values of {', '.join(uncountable)}",
                "Give a choice, as 1e-3,1e-2, or a range in steps.",
            )
        )
    if config.sampler == "cmaes":
        problems += _check_cmaes(space, objectives)
    if config.pruner == "hyperband" and len(objectives) > 1:
        problems.append(
            InvalidParameterError(
                f"pruner=hyperband cannot compare trials by several metrics ({config.metric})",
                "Set pruner=none, or give one metric.",
            )
        )
    return problems


def _check_cmaes(space: Space, objectives: Sequence[Objective]) -> list[TrialrunError]:
    problems: list[TrialrunError] = []
    if len(objectives) > 1:
        problems.append(
            InvalidParameterError(
                f"sampler=cmaes optimizes one metric, and metric names {len(objectives)}",
                "Set sampler to tpe, gp or random, or give one metric.",
            )
        )
    num_ranges = sum(not isinstance(item, Choice) for item in space.dimensions.values())
    if num_ranges < _MIN_CMAES_RANGES:
        problems.append(
            InvalidParameterError(
                f"sampler=cmaes needs {_MIN_CMAES_RANGES} ranges or more, and the search space "
                f"has {num_ranges}: it draws choices at random",
                "Set sampler=tpe, or give ranges, as 8:64, instead of choices.",
            )
        )
    return problems


def check_dependent_settings(
    settings: Mapping[str, Setting], searched: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> list[TrialrunError]:
    """Return the errors of searched settings that exclude another setting."""
    problems = _check_warm_ups(settings, searched, fixed)
    transforms = fixed.get("transforms")
    if "augment" in searched and as_text(transforms).strip().lower() != NONE_TEXT:
        problems.append(
            InvalidParameterError(
                f"augment is searched and transforms={transforms} is set",
                "Give only one of them: a list with random entries replaces augment.",
            )
        )
    return problems


def _check_warm_ups(
    settings: Mapping[str, Setting], searched: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> list[TrialrunError]:
    """Return an error if several lengths of the warm-up are set and one is searched.

    Two ranges that start at 0 would pass the check of fixed settings, where 0 means unset. A fixed
    0 counts as unset here too: MLproject passes every setting.
    """
    lengths = set(WARM_UP_LENGTHS)
    unset = {name for name in lengths & fixed.keys() if _is_zero(settings[name], fixed)}
    num_set = len((searched.keys() | fixed.keys() - unset) & lengths)
    if num_set < 2 or not searched.keys() & lengths:
        return []
    return [
        InvalidParameterError("several lengths of the warm-up are given", "Search one of them.")
    ]


def _is_zero(item: Setting, values: Mapping[str, Any]) -> bool:
    try:
        return bool(item.parse(values[item.name]) == 0)
    except InvalidParameterError:
        return False
