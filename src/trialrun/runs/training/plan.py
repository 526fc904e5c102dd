"""The plan of a training run: checked settings, file lists of both sets, and local model paths.

Planning reads no image and loads no torch; it loads MLflow only to fetch a model. One error names
all problems with settings, data and model.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from trialrun.cache.location import cache_limit_bytes, check_cache
from trialrun.config import AUTO_TEXT, NONE_TEXT, TrainConfig, build_config
from trialrun.distributed import read_ranks
from trialrun.engine.steps import count_warm_up_steps
from trialrun.errors import (
    InvalidModelDirectoryError,
    InvalidParameterError,
    TrialrunError,
    merge_errors,
)
from trialrun.images import ImageSet, check_same_classes, check_trainable, split_stratified
from trialrun.images.decoding.transforms import TransformStep, read_transforms, select_fixed_steps
from trialrun.images.formats.sample import PREFIX as SAMPLE_PREFIX
from trialrun.mlflow_client import URI_SCHEMES
from trialrun.models.zoo.names import DEFAULT_WEIGHTS, check_model_directory, check_model_name
from trialrun.report.label_errors import check_audit
from trialrun.runs.datasets.sources import OpenedSets, fetch_model, open_sets, open_source
from trialrun.runs.training.smoke_plan import reduce_plan


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Settings and both sets, checked as far as possible without reading an image.

    `transforms` are the steps that the setting of this name lists. `local_paths` are the folders of
    models in MLflow, by URI. `recorded_weights` is `random` or `default` in the repetition of a
    run with weights=auto: what it was resolved to. `data_layout` is how the layout of the training
    data was read. `class_names` are the classes if the training set may lack some of them.
    """

    config: TrainConfig
    train: ImageSet
    valid: ImageSet
    transforms: tuple[TransformStep, ...] = ()
    local_paths: Mapping[str, Path] = field(default_factory=dict)
    recorded_weights: str | None = None
    data_layout: str = ""
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in index order."""
        return self.class_names or self.train.classes


def plan_training(values: Mapping[str, Any]) -> TrainPlan:
    """Check the settings, given by name as text or Python values, and list both sets.

    The plan of a smoke test has few images of both.

    Raises:
        TrialrunError: One error that names all problems with settings, data and model.
    """
    problems: list[TrialrunError] = []
    config = _parse_settings(values, problems)
    local_paths = _fetch_models((config.model, config.weights), problems)
    problems += _find_path_errors(config, local_paths)
    transforms = _read_transforms(config, problems)
    opened = _open_train_data(config, problems)
    valid = _open_valid_data(config, opened, problems)
    if problems:
        raise merge_errors(problems)
    assert opened is not None
    train = opened.train.drop_unlabelled()
    if valid is None:
        train, valid = split_stratified(
            train, second_fraction=config.valid_fraction, random_seed=config.random_seed
        )
        valid = replace(valid, notes=())  # the training set has the same
    if problems := [
        *check_same_classes(train, valid),
        *_check_batch_size(config, train),
        *_check_warm_up(config, train),
        *_check_parts(config),
    ]:
        raise merge_errors(problems)
    plan = TrainPlan(config, train, valid, transforms, local_paths, data_layout=opened.layout)
    return reduce_plan(plan) if config.smoke else plan


def _fetch_models(names: Iterable[str | None], problems: list[TrialrunError]) -> dict[str, Path]:
    """Return the local folders of the models in MLflow among `names`, by URI."""
    fetched: dict[str, Path] = {}
    for uri in dict.fromkeys(names):
        if uri is not None and uri.startswith(URI_SCHEMES):
            try:
                fetched[uri] = fetch_model(uri)
            except TrialrunError as error:
                problems.append(error)
    return fetched


def _find_path_errors(config: TrainConfig, local_paths: Mapping[str, Path]) -> list[TrialrunError]:
    """Return the problems with the model, the weights, the cache limit and missing packages."""
    problems: list[TrialrunError] = []
    checks: list[Callable[[], object]] = [
        partial(_check_model, config.model, local_paths),
        partial(_check_weights, config.weights, local_paths),
        cache_limit_bytes,
        check_cache,
    ]
    if config.audit and config.report:
        checks.append(check_audit)
    for check in checks:
        try:
            check()
        except TrialrunError as error:
            problems.append(error)
    return problems


def _check_model(model: str, local_paths: Mapping[str, Path]) -> None:
    if model in local_paths:
        check_model_directory(local_paths[model], model)
    elif not model.startswith(URI_SCHEMES):  # else `_fetch_models` has reported it
        check_model_name(model)


def _check_weights(weights: str | None, local_paths: Mapping[str, Path]) -> None:
    if weights in (None, AUTO_TEXT, DEFAULT_WEIGHTS):
        return
    name = str(weights)
    if name.startswith(URI_SCHEMES) and name not in local_paths:
        return  # `_fetch_models` has reported it
    path = local_paths.get(name) or Path(name).expanduser()
    if path.is_dir():
        check_model_directory(path, name)
    elif not path.is_file():
        raise InvalidModelDirectoryError(
            f"the file of weights {name} does not exist",
            "Set weights to a file, a model directory, models:/NAME/VERSION, default or none.",
        )


def _read_transforms(
    config: TrainConfig, problems: list[TrialrunError]
) -> tuple[TransformStep, ...]:
    if config.transforms is None:
        return ()
    try:
        steps = read_transforms(config.transforms)
    except InvalidParameterError as error:
        problems.append(error)
        return ()
    if config.augment != NONE_TEXT and select_fixed_steps(steps) != steps:
        problems.append(
            InvalidParameterError(
                f"augment={config.augment} and transforms={config.transforms} with random entries "
                "are both set",
                "Set only one of them: random transforms replace augment.",
            )
        )
    return steps


def _parse_settings(values: Mapping[str, Any], problems: list[TrialrunError]) -> TrainConfig:
    """Parse the settings; skip invalid ones, so that the data is checked in the same call."""
    try:
        return build_config(TrainConfig, values)
    except InvalidParameterError as error:
        problems.append(error)
    valid_values: dict[str, Any] = {}
    for name, value in values.items():
        try:
            build_config(TrainConfig, {**valid_values, name: value})
        except InvalidParameterError:
            continue
        valid_values[name] = value
    return build_config(TrainConfig, valid_values)


def _open_train_data(config: TrainConfig, problems: list[TrialrunError]) -> OpenedSets | None:
    """Open the training data, and its validation set if it has split folders."""
    source = config.train_data
    if problems and source.startswith(SAMPLE_PREFIX):
        return None  # a sample is always valid, and writing it takes seconds
    try:
        opened = open_sets(
            source,
            group_column=config.group_column,
            group_pattern=config.group_pattern,
            config=config,
            uses_valid=config.valid_data is None,
        )
    except TrialrunError as error:
        problems.append(error)
        return None
    problems += check_trainable(opened.train, case_sensitive=config.case_sensitive_labels)
    return opened


def _open_valid_data(
    config: TrainConfig, opened: OpenedSets | None, problems: list[TrialrunError]
) -> ImageSet | None:
    """Return the validation set that the settings name, else that of the training data."""
    valid, source = opened.valid if opened else None, config.valid_data
    if source is not None and not (problems and source.startswith(SAMPLE_PREFIX)):
        try:
            valid = open_source(
                source,
                group_column=config.group_column,
                group_pattern=config.group_pattern,
                config=config,
            )
        except TrialrunError as error:
            problems.append(error)
    if valid is None:
        return None
    problems += check_trainable(valid, case_sensitive=config.case_sensitive_labels)
    return valid.drop_unlabelled()


def _check_batch_size(config: TrainConfig, train: ImageSet) -> list[TrialrunError]:
    num_ranks = read_ranks(os.environ).world_size
    if num_ranks > 1 and len(train) < 2 * num_ranks:
        return [
            InvalidParameterError(
                f"{len(train)} training images are too few for {num_ranks} ranks",
                f"Start with --nproc-per-node={max(len(train) // 2, 1)} or less.",
            )
        ]
    if config.batch_size <= len(train):
        return []
    return [
        InvalidParameterError(
            f"batch_size={config.batch_size} is larger than the training set ({len(train)} images)",
            f"Set batch_size to {len(train)} or less.",
        )
    ]


def _check_parts(config: TrainConfig) -> list[TrialrunError]:
    """Refuse `auto` for several ranks: the others would wait for one that runs out of memory."""
    num_ranks = read_ranks(os.environ).world_size
    if num_ranks == 1 or config.accumulate_steps != AUTO_TEXT:
        return []
    return [
        InvalidParameterError(
            f"accumulate_steps={AUTO_TEXT} works in a single process, not with {num_ranks} ranks",
            "Set a number, such as accumulate_steps=2.",
        )
    ]


def _check_warm_up(config: TrainConfig, train: ImageSet) -> list[TrialrunError]:
    try:
        count_warm_up_steps(config, len(train), read_ranks(os.environ).world_size)
    except InvalidParameterError as error:
        return [error]
    return []
