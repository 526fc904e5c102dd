"""What is to be searched on what, checked as far as names go: no torch, no MLflow, no Optuna.

All complaints about settings, ranges and data are found together.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialrun.config import (
    AUTO_TEXT,
    METRIC_DIRECTIONS,
    MIN_CLASSES_FOR_TOP5,
    SearchConfig,
    Setting,
    TrainConfig,
    as_text,
    build_config,
    list_settings,
)
from trialrun.engine.steps import count_warm_up_steps
from trialrun.errors import InvalidParameterError, TrialrunError, merge_errors
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.tuning.space import (
    DEFAULT_RANGES,
    Choice,
    Dimension,
    Range,
    Space,
    is_searched,
    parse_dimension,
)

SQLITE = "sqlite:///"
_STORAGE_SCHEMES = (SQLITE, "postgresql://", "postgresql+psycopg://", "postgres://")

_SCHEME = re.compile(r"[\w+.-]+:/+")
_PASSWORDS = re.compile(r"((?:ssl)?password\s*=\s*)[^&\s]*", re.IGNORECASE)  # as libpq names them

# What of the search's own settings is the same in all calls on one study.
_OF_THE_STUDY = ("study", "storage", "metric", "direction")

# What the base plan has the smallest value of.
_SMALLEST_AT_CORNER = ("batch_size", "warmup_steps", "warmup_epochs")

# What may differ between two calls on one study without making its trials unlike.
_NOT_COMPARED = ("train_data", "valid_data", "device", "experiment", "run_name", "register_as")


@dataclass(frozen=True, slots=True)
class Objective:
    """What a trial is judged by, and which way is better (`minimize` or `maximize`)."""

    metric: str
    direction: str

    @property
    def sign(self) -> int:
        """What makes the smaller the better when multiplied."""
        return 1 if self.direction == "minimize" else -1


def as_minimized(values: Sequence[float], objectives: Sequence[Objective]) -> list[float]:
    """A trial's values with signs by which the smaller is the better."""
    return [objective.sign * value for objective, value in zip(objectives, values, strict=True)]


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Settings, the space, and the plan that every trial varies."""

    config: SearchConfig
    space: Space
    objectives: tuple[Objective, ...]
    enqueued_params: tuple[Mapping[str, Any], ...]  # settings to try first, of `--enqueue`
    base: TrainPlan
    notes: tuple[str, ...]
    raw_settings: Mapping[str, Any]  # as it was given, so that a worker can plan the same

    def signature(self) -> dict[str, str]:
        """What must be the same in every call on one study."""
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
        """Every setting by name as the parent run records it, ranges as they are typed."""
        storage = {"storage": redact_password(self.config.storage)}
        return self.base.config.params() | self.space.texts() | self.config.params() | storage

    def tags(self) -> dict[str, str]:
        """What later calls on one study may change, as MLflow's parameters cannot."""
        texts = self.config.params().items()
        return {f"search.{name}": text for name, text in texts if name not in _OF_THE_STUDY}


def redact_password(url: str | None) -> str:
    """A storage's address without its passwords, however wrongly it is written."""
    text = as_text(url)
    if text.startswith(SQLITE):  # which has none, and may have an @ in a folder's name
        return text
    credentials, at, place = text.rpartition("@")  # the last: a password may hold an @ by mistake
    shown = f"{_strip_password(credentials)}@{place}" if at else text
    return _PASSWORDS.sub(r"\1***", shown)


def _strip_password(text: str) -> str:
    """What stands before an @, without the password; all of it may be one where `://` is amiss."""
    scheme = _SCHEME.match(text)
    begin = scheme.end() if scheme else 0
    user, colon, _password = text[begin:].partition(":")
    if colon:
        return f"{text[:begin]}{user}:***"
    return text if scheme is None or "://" in text else f"{text[:begin]}***"


def plan_search(values: Mapping[str, Any]) -> SearchPlan:
    """Settings of the search and of training by name, as texts or Python values, to a plan.

    Raises:
        TrialrunError: One error that names everything wrong with settings, ranges and data.
    """
    problems: list[TrialrunError] = []
    own = {item.name for item in list_settings(SearchConfig)}
    config = _parse_settings({k: v for k, v in values.items() if k in own}, problems)
    rest = {k: v for k, v in values.items() if k not in own}
    searched, fixed = _split_dimensions(rest, problems)
    objectives = _parse_objectives(config, problems)
    problems += _check_search_settings(config, Space(searched))
    problems += _check_warm_ups(searched, fixed)
    base = _plan_base(searched, fixed, problems)
    enqueued_params = _read_enqueued(config.enqueue, Space(searched), problems)
    if problems:
        raise merge_errors(problems)
    assert base is not None
    _check_top5(objectives, len(base.classes))
    fitting, notes = _limit_batch_sizes(searched, len(base.train))
    return SearchPlan(
        config, Space(fitting), objectives, enqueued_params, base, notes, dict(values)
    )


def _parse_settings(values: Mapping[str, Any], problems: list[TrialrunError]) -> SearchConfig:
    try:
        return build_config(SearchConfig, values)
    except InvalidParameterError as error:
        problems.append(error)
    kept = {
        item.name: values[item.name]
        for item in list_settings(SearchConfig)
        if _is_legal(item, values)
    }
    return build_config(SearchConfig, kept)


def _is_legal(item: Setting, values: Mapping[str, Any]) -> bool:
    try:
        item.parse(values[item.name])
    except (KeyError, InvalidParameterError):
        return False
    return True


def _split_dimensions(
    values: Mapping[str, Any], problems: list[TrialrunError]
) -> tuple[dict[str, Dimension], dict[str, Any]]:
    """The ranges and choices on one hand, what is fixed on the other."""
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


def _check_warm_ups(
    searched: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> list[TrialrunError]:
    """A range may begin at 0, where both units would pass as unset.

    A fixed 0 is no unit that was given: MLproject hands every setting over.
    """
    units = ("warmup_steps", "warmup_epochs")
    settings = {item.name: item for item in list_settings(TrainConfig) if item.name in units}
    zeros = [name for name in units if name in fixed and _is_zero(settings[name], fixed[name])]
    raw_settings = [name for name in units if name in searched.keys() | fixed.keys() - set(zeros)]
    if len(raw_settings) < len(units) or not searched.keys() & set(units):
        return []
    return [
        InvalidParameterError(
            "warmup_steps and warmup_epochs are both given", "Search one unit of the warm-up."
        )
    ]


def _is_zero(item: Setting, value: Any) -> bool:
    try:
        return bool(item.parse(value) == 0)
    except InvalidParameterError:
        return False


def _plan_base(
    searched: Mapping[str, Dimension], fixed: Mapping[str, Any], problems: list[TrialrunError]
) -> TrainPlan | None:
    """The plan at one corner of the space, which stands for its data and fixed settings.

    The corner has the smallest batches, the most epochs and the shortest warm-up: where that
    warm-up is too long, it is in every trial.
    """
    corner = {name: _corner_value(name, each) for name, each in searched.items()}
    try:
        return plan_training({**corner, **fixed})
    except TrialrunError as error:
        problems.append(error)
        return None


def _corner_value(name: str, dimension: Dimension) -> Any:
    """A setting's value at the corner."""
    if name == "epochs":
        return int(dimension.largest())
    if name in _SMALLEST_AT_CORNER and isinstance(dimension, Choice):
        return min(dimension.options)
    return dimension.value_at(0)


def _limit_batch_sizes(
    searched: dict[str, Dimension], num_images: int
) -> tuple[dict[str, Dimension], tuple[str, ...]]:
    """The dimensions without batches larger than the training set, and a note of those."""
    batches = searched.get("batch_size")
    if isinstance(batches, Range) and batches.high > num_images:
        raise InvalidParameterError(
            f"batch_size={batches.text()} goes beyond the training set ({num_images} images)",
            f"End it at {num_images} or before.",
        )
    if not isinstance(batches, Choice):
        return searched, ()
    kept = Choice(tuple(size for size in batches.options if size <= num_images))
    if kept == batches:
        return searched, ()
    note = f"batch_size={kept.text()} is searched: larger ones exceed the {num_images} images"
    return {**searched, "batch_size": kept}, (note,)


def _parse_objectives(config: SearchConfig, problems: list[TrialrunError]) -> tuple[Objective, ...]:
    metrics = [name.strip() for name in config.metric.split(",")]
    directions = [word.strip().lower() for word in config.direction.split(",")]
    if directions == [AUTO_TEXT]:
        directions = [METRIC_DIRECTIONS.get(name, "minimize") for name in metrics]
    if unknown := [name for name in metrics if name not in METRIC_DIRECTIONS]:
        problems.append(
            InvalidParameterError(
                f"there is no metric {', '.join(unknown)}",
                f"The metrics are: {', '.join(METRIC_DIRECTIONS)}.",
            )
        )
    if len(directions) != len(metrics) or not set(directions) <= {"minimize", "maximize"}:
        problems.append(
            InvalidParameterError(
                f"direction={config.direction} does not fit metric={config.metric}",
                "Give auto, or minimize or maximize once for each metric.",
            )
        )
        directions = ["minimize"] * len(metrics)
    return tuple(Objective(*pair) for pair in zip(metrics, directions, strict=True))


def _check_top5(objectives: Sequence[Objective], num_classes: int) -> None:
    uses_top5 = any("top5" in objective.metric for objective in objectives)
    if uses_top5 and num_classes < MIN_CLASSES_FOR_TOP5:
        raise InvalidParameterError(
            f"valid_top5_accuracy needs {MIN_CLASSES_FOR_TOP5} classes, "
            f"and there are {num_classes}",
            "Take valid_accuracy.",
        )


def _check_storage(url: str) -> list[TrialrunError]:
    """What is wrong with an address as far as it can be told without going there."""
    if not url.startswith(_STORAGE_SCHEMES):
        return [
            InvalidParameterError(
                f"storage={redact_password(url)} is no storage of studies",
                "Give sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
            )
        ]
    return (
        []
        if url.startswith(SQLITE) or _is_address(url)
        else [
            InvalidParameterError(
                f"storage={redact_password(url)} is no address of a server",
                "Give postgresql://USER@HOST:PORT/DATABASE; an @ in a password is written %40.",
            )
        ]
    )


def _is_address(url: str) -> bool:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        host = make_url(url).host
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        return False
    return "@" not in (host or "")


def _check_search_settings(config: SearchConfig, space: Space) -> list[TrialrunError]:
    """What of the search's own settings does not go together."""
    problems = [] if config.storage is None else _check_storage(config.storage)
    if config.sampler == "grid" and (endless := space.endless()):
        problems.append(
            InvalidParameterError(
                f"sampler=grid cannot go through all values of {', '.join(endless)}",
                "Give a choice, as 1e-3,1e-2, or a range in steps.",
            )
        )
    if config.replicates == 1:
        problems.append(
            InvalidParameterError(
                "replicates=1 tells nothing of how much seeds differ", "Give 2 or more, or 0."
            )
        )
    return problems


def _read_enqueued(
    source: str | None, space: Space, problems: list[TrialrunError]
) -> tuple[Mapping[str, Any], ...]:
    """The settings in the file `--enqueue` names, each within the space."""
    if source is None:
        return ()
    try:
        rows = json.loads(Path(source).expanduser().read_text("utf-8"))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("it holds no list of objects")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(
            InvalidParameterError(
                f"enqueue={source} cannot be read: {reason}",
                'Write a JSON list, as [{"learning_rate": 0.01, "batch_size": 16}].',
            )
        )
        return ()
    for number, row in enumerate(rows, start=1):
        if outside := sorted(row.keys() - space.fitting(row).keys()):
            told = ", ".join(f"{name}={as_text(row[name])}" for name in outside)
            problems.append(
                InvalidParameterError(
                    f"enqueue={source}: {told} (entry {number}) is not within what is searched",
                    f"What is searched: {space.texts()}.",
                )
            )
    return tuple(rows)


def plan_trial(base: TrainPlan, settings: Mapping[str, Any], random_seed: int) -> TrainPlan:
    """The plan of one trial: the base's sets with settings and a seed of its own."""
    config = dataclasses.replace(
        base.config, **settings, random_seed=random_seed, run_name=None, register_as=None
    )
    return dataclasses.replace(base, config=config)


def find_impossible_reason(base: TrainPlan, settings: Mapping[str, Any]) -> str:
    """Why a trial cannot have these settings together; empty where it can.

    Each is legal by itself: a warm-up may be longer than the epochs that were drawn beside it.
    """
    try:
        config = dataclasses.replace(base.config, **settings)
        count_warm_up_steps(config, len(base.train))
    except InvalidParameterError as error:
        return str(error)
    return ""
