"""The plan of a search: settings, search space, objectives and the base training plan.

Planning reports all errors in settings, ranges and data together. It imports neither torch nor
MLflow nor Optuna.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialrun.config import (
    SearchConfig,
    Setting,
    TrainConfig,
    as_text,
    build_config,
    list_settings,
    list_values,
)
from trialrun.config.settings import OFF_TEXT
from trialrun.config.train import WARM_UP_LENGTHS
from trialrun.engine.steps import count_warm_up_steps
from trialrun.errors import (
    InvalidParameterError,
    TrialrunError,
    merge_errors,
    redact_credentials,
)
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.tuning.combinations import check_dependent_settings, check_sampler
from trialrun.tuning.objectives import Objective, check_top5, parse_objectives
from trialrun.tuning.space import (
    DEFAULT_RANGES,
    Choice,
    Dimension,
    Range,
    Space,
    is_searched,
    parse_dimension,
)
from trialrun.tuning.storage_url import check_storage_url, redact_password

# Search settings that every call on a study repeats; the others may change.
_STUDY_SETTINGS = ("study", "storage", "metric", "direction")

# Training settings that may differ between two calls on a study: trials stay comparable.
_NOT_COMPARED = ("train_data", "valid_data", "device", "experiment", "run_name", "register_as")

# Settings with their smallest value in the base plan.
_SMALLEST_AT_CORNER = ("batch_size", *WARM_UP_LENGTHS)


# Number of the first replicate for its seed: no search has as many trials.
_FIRST_REPLICATE = 1_000_000
TRIAL_SEEDS = "random_seed + seed number of the trial; replicates: 1000000 more"

# Settings that name files or models: only planning a training shows whether they exist.
_CHECKED_BY_PLANNING = ("model", "weights")


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Settings, search space and the base plan that every trial varies."""

    config: SearchConfig
    space: Space
    objectives: tuple[Objective, ...]
    enqueued_params: tuple[Mapping[str, Any], ...]  # settings of the --enqueue file, tried first
    base: TrainPlan
    notes: tuple[str, ...]
    raw_settings: Mapping[str, Any]  # as the caller gave them; workers repeat the planning

    def signature(self) -> dict[str, str]:
        """Return the settings that must be equal in every call on a study."""
        fixed = {
            name: text
            for name, text in self.base.config.params().items()
            if name not in _NOT_COMPARED
        }
        objectives = ",".join(
            f"{objective.metric} {objective.direction}" for objective in self.objectives
        )
        return fixed | self.space.texts() | {"metric": objectives}

    def params(self) -> dict[str, str]:
        """Return all settings as the parent run's parameters, ranges in their text form."""
        storage = {"storage": redact_password(self.config.storage)}
        return self.base.config.params() | self.space.texts() | self.config.params() | storage

    def record(self) -> dict[str, Any]:
        """Return all settings for `config.yaml`, ranges in their text form, without a password."""
        values = list_values(self.base.config) | self.space.texts() | list_values(self.config)
        if self.config.storage and redact_password(self.config.storage) != self.config.storage:
            values["storage"] = redact_credentials(self.config.storage)
        return values

    def changeable(self) -> dict[str, str]:
        """Return the settings that a later call on the study may change."""
        texts = self.config.params().items()
        return {name: text for name, text in texts if name not in _STUDY_SETTINGS}


def plan_search(values: Mapping[str, Any]) -> SearchPlan:
    """Plan a search from its settings and those of training, as texts or Python values.

    Raises:
        TrialrunError: One error that lists all problems of settings, ranges and data.
    """
    problems: list[TrialrunError] = []
    search_names = {item.name for item in list_settings(SearchConfig)}
    config = _parse_settings({k: v for k, v in values.items() if k in search_names}, problems)
    training_values = {k: v for k, v in values.items() if k not in search_names}
    searched, fixed = _split_dimensions(training_values, problems)
    objectives = parse_objectives(config, problems)
    problems += _check_search_settings(config)
    problems += check_sampler(config, Space(searched), objectives)
    settings = {item.name: item for item in list_settings(TrainConfig)}
    problems += check_dependent_settings(settings, searched, fixed)
    base = _plan_base(searched, fixed, problems)
    if base is not None and base.config.offline:
        problems.append(
            InvalidParameterError(
                "offline=true is not possible in a search", "Start the search with its store."
            )
        )
    if base is not None and base.config.smoke:
        problems.append(
            InvalidParameterError(
                "smoke=true is not possible in a search", "Try a training: trialrun train --smoke."
            )
        )
    enqueued_params = _read_enqueued(config.enqueue, Space(searched), problems)
    if problems:
        raise merge_errors(problems)
    assert base is not None
    check_top5(objectives, len(base.classes))
    dimensions, notes = _limit_batch_sizes(searched, len(base.train))
    return SearchPlan(
        config, Space(dimensions), objectives, enqueued_params, base, notes, dict(values)
    )


def resolve_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a search with their defaults, ranges and choices in their text form.

    Raises:
        InvalidParameterError: One error that names all problems.
    """
    problems: list[TrialrunError] = []
    search_names = {item.name for item in list_settings(SearchConfig)}
    config = _parse_settings({k: v for k, v in values.items() if k in search_names}, problems)
    training_values = {k: v for k, v in values.items() if k not in search_names}
    searched, fixed = _split_dimensions(training_values, problems)
    try:
        base = build_config(TrainConfig, fixed)
    except InvalidParameterError as error:
        raise merge_errors([*problems, error]) from None
    if problems:
        raise merge_errors(problems)
    return list_values(base) | Space(searched).texts() | list_values(config)


def _parse_settings(values: Mapping[str, Any], problems: list[TrialrunError]) -> SearchConfig:
    """Build the search's config; with errors, from the legal values only."""
    try:
        return build_config(SearchConfig, values)
    except InvalidParameterError as error:
        problems.append(error)
    legal = {
        item.name: values[item.name]
        for item in list_settings(SearchConfig)
        if _is_legal(item, values)
    }
    return build_config(SearchConfig, legal)


def _is_legal(item: Setting, values: Mapping[str, Any]) -> bool:
    try:
        item.parse(values[item.name])
    except (KeyError, InvalidParameterError):
        return False
    return True


def _split_dimensions(
    values: Mapping[str, Any], problems: list[TrialrunError]
) -> tuple[dict[str, Dimension], dict[str, Any]]:
    """Split training settings into search dimensions and fixed values."""
    settings = {item.name: item for item in list_settings(TrainConfig)}
    searched: dict[str, Dimension] = {}
    fixed: dict[str, Any] = {}
    if not any(name in settings and is_searched(settings[name], v) for name, v in values.items()):
        values = {**{k: v for k, v in DEFAULT_RANGES.items() if k not in values}, **values}
    for name, value in values.items():
        if name not in settings or not is_searched(settings[name], value):
            fixed[name] = value
            continue
        try:
            searched[name] = parse_dimension(settings[name], value)
        except InvalidParameterError as error:
            problems.append(error)
    return searched, fixed


def _check_search_settings(config: SearchConfig) -> list[TrialrunError]:
    """Return the errors in single search settings."""
    problems = [] if config.storage is None else check_storage_url(config.storage)
    if config.replicates == 1:
        problems.append(
            InvalidParameterError("replicates=1 cannot measure seed variance", "Give 0, 2 or more.")
        )
    return problems


def _plan_base(
    searched: Mapping[str, Dimension], fixed: Mapping[str, Any], problems: list[TrialrunError]
) -> TrainPlan | None:
    """Plan the training at one corner of the space: it checks the data and the fixed settings.

    The corner has the smallest batches, the most epochs and the shortest warm-up. If that warm-up
    is too long, it is too long in every trial.
    """
    corner = {name: _corner_value(name, dimension) for name, dimension in searched.items()}
    try:
        base = plan_training({**corner, **fixed})
        local_paths = dict(base.local_paths)
        for other in _list_other_models(searched, corner):
            local_paths |= plan_training({**corner, **fixed, **other}).local_paths
    except TrialrunError as error:
        problems.append(error)
        return None
    return dataclasses.replace(base, local_paths=local_paths)


def _list_other_models(
    searched: Mapping[str, Dimension], corner: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the options of `model` and `weights` beside the corner's; planning checks each.

    The parsers of the other settings check their options.
    """
    return [
        {name: option}
        for name in _CHECKED_BY_PLANNING
        if isinstance(options := searched.get(name), Choice)
        for option in options.options
        if option != corner[name]
    ]


def _corner_value(name: str, dimension: Dimension) -> Any:
    if name == "epochs":
        return int(dimension.largest())
    if name == "progressive_resize":
        return OFF_TEXT  # a first size that does not fit one image_size may fit another
    if name in _SMALLEST_AT_CORNER and isinstance(dimension, Choice):
        return min(dimension.options)
    return dimension.value_at(0)


def _limit_batch_sizes(
    searched: dict[str, Dimension], num_images: int
) -> tuple[dict[str, Dimension], tuple[str, ...]]:
    """Drop choices of batch_size larger than the training set; return a note if there were any.

    Raises:
        InvalidParameterError: batch_size is a range that exceeds the training set.
    """
    batches = searched.get("batch_size")
    if isinstance(batches, Range) and batches.high > num_images:
        raise InvalidParameterError(
            f"batch_size={batches.text()} exceeds the training set ({num_images} images)",
            f"End the range at {num_images} or below.",
        )
    if not isinstance(batches, Choice):
        return searched, ()
    limited = Choice(tuple(size for size in batches.options if size <= num_images))
    if limited == batches:
        return searched, ()
    note = f"batch_size={limited.text()} is searched: larger sizes exceed the {num_images} images"
    return {**searched, "batch_size": limited}, (note,)


def _read_enqueued(
    path: str | None, space: Space, problems: list[TrialrunError]
) -> tuple[Mapping[str, Any], ...]:
    """Read the settings in the `--enqueue` file; append errors to `problems`."""
    if path is None:
        return ()
    try:
        rows = json.loads(Path(path).expanduser().read_text("utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("not a list of objects")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(
            InvalidParameterError(
                f"enqueue={path} cannot be read: {reason}",
                'Write a JSON list, as [{"learning_rate": 0.01, "batch_size": 16}].',
            )
        )
        return ()
    for number, row in enumerate(rows, start=1):
        if outside := sorted(row.keys() - space.select_valid(row).keys()):
            texts = ", ".join(f"{name}={as_text(row[name])}" for name in outside)
            problems.append(
                InvalidParameterError(
                    f"enqueue={path}: {texts} (entry {number}) is outside the search space",
                    f"The search space is {space.texts()}.",
                )
            )
    return tuple(rows)


def derive_trial_seed(random_seed: int, number: int, *, is_replicate: bool) -> int:
    """Return the seed of a trial: the search's seed plus the trial's seed number.

    People read it in tables, so it is short. Streams of neighbouring seeds are unrelated: each is
    a hash of its seed (`engine.inputs.seeds`). Replicates share no seed with trials.
    """
    return random_seed + number + (_FIRST_REPLICATE if is_replicate else 0)


def plan_trial(base: TrainPlan, settings: Mapping[str, Any], random_seed: int) -> TrainPlan:
    """Return the base plan with the settings and the seed of one trial."""
    config = dataclasses.replace(
        base.config, **settings, random_seed=random_seed, run_name=None, register_as=None
    )
    return dataclasses.replace(base, config=config)


def find_impossible_reason(base: TrainPlan, settings: Mapping[str, Any]) -> str:
    """Return the reason that a trial cannot combine these settings; empty if it can.

    Each setting is legal by itself, but a warm-up may be longer than the sampled epochs.
    """
    try:
        config = dataclasses.replace(base.config, **settings)
        count_warm_up_steps(config, len(base.train))
    except InvalidParameterError as error:
        return str(error)
    return ""
