"""The plan of a repetition: the recorded settings, adapted to this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trialrun.config import AUTO_TEXT, NONE_TEXT
from trialrun.config.reproduce import ReproduceConfig
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute, supports_precision
from trialrun.engine.early_stopping import TIME_BUDGET
from trialrun.errors import DataError, InvalidParameterError, TrackingError, TrialrunError
from trialrun.mlflow_client import URI_SCHEMES
from trialrun.models.zoo.names import DEFAULT_WEIGHTS, is_network_name
from trialrun.runs.inspection.run_reader import RecordedRun, load_settings
from trialrun.runs.training.environment import FOLDER_TAG
from trialrun.runs.training.initial import RESOLVED_WEIGHTS
from trialrun.runs.training.plan import TrainPlan, plan_training

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PATHS = ("train_data", "valid_data", "classes", "model", "weights", "transforms")
_NOT_PATHS = frozenset({NONE_TEXT, AUTO_TEXT, DEFAULT_WEIGHTS})
# What runs did before these settings existed, which they do not record.
_VALUES_BEFORE = {
    "freeze_epochs": "0",
    "head_start": "random",
    "batch_norm": "batch",
    "data_layout": "classes",
}
_SPLIT_SEED_TAG = "split_seed"  # set on trials of a search


@dataclass(frozen=True, slots=True)
class Repetition:
    """The plan of a repetition, with its device and precision.

    `original_precision` is the original's, None if it is not recorded. `notes` say which settings
    are not the original's.
    """

    plan: TrainPlan
    compute: ComputeConfig
    original_precision: str | None
    notes: tuple[str, ...]


def load_training_settings(client: "MlflowClient", original: RecordedRun) -> dict[str, str]:
    """Return the exact settings of the run.

    Raises:
        TrackingError: It is not a training run, or its settings are not recorded in full.
    """
    settings = load_settings(client, original)
    if "train_data" not in settings:
        raise TrackingError(
            f"run {original.run_id} is not a training run of trialrun: it has no train_data",
            "Give the run that trained the model, which MLflow shows as the version's source run. "
            "`trialrun history` shows the runs of promotions.",
        )
    return {**_VALUES_BEFORE, **settings}


def plan_repetition(
    client: "MlflowClient",
    original: RecordedRun,
    settings: Mapping[str, str],
    config: ReproduceConfig,
) -> Repetition:
    """Plan with the original's settings and precision; do not register a model.

    Data that has moved and another device come from `config`.

    Raises:
        TrialrunError: The data, the model or the device is not on this machine.
    """
    settings = resolve_paths(original.tags.get(FOLDER_TAG), settings) | _list_overrides(
        client, original, config
    )
    device = _find_device(original, settings, config)
    original_precision = _read_precision(original, settings)
    precision = _choose_precision(original, original_precision, device)
    try:
        plan = _restore_split(original, settings | {"precision": precision})
    except TrialrunError as error:
        moved = "Give data that has moved with --train-data and --valid-data. "
        error.hint = (
            f"{error.hint} {moved if isinstance(error, DataError) else ''}The settings are those "
            f"of run {original.run_id}."
        )
        raise
    return Repetition(
        replace(plan, recorded_weights=original.params.get(RESOLVED_WEIGHTS)),
        resolve_compute(plan.config.device, plan.config.precision),
        original_precision,
        _describe_precision(original_precision, precision, device),
    )


def resolve_paths(folder: str | None, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings, with paths relative to `folder`, in which the run was started."""
    if folder is None:
        return dict(settings)
    values = {name: settings.get(name, NONE_TEXT) for name in _PATHS}
    paths = {
        name: Path(folder, value)
        for name, value in values.items()
        if value not in _NOT_PATHS
        and not is_network_name(value)
        and not value.startswith(URI_SCHEMES)
    }
    return {**settings, **{name: str(path) for name, path in paths.items() if _path_exists(path)}}


def _path_exists(path: Path) -> bool:
    try:
        return path.exists() or any(parent.is_file() for parent in path.parents)  # in an archive
    except (OSError, ValueError):  # too long for the system, or with a NUL character
        return False


def _list_overrides(
    client: "MlflowClient", original: RecordedRun, config: ReproduceConfig
) -> dict[str, str]:
    """Return the settings that differ from the original's by intention."""
    given = {name: getattr(config, name) for name in ("train_data", "valid_data", "device")}
    overrides = {name: value for name, value in given.items() if value is not None}
    if original.tags.get("stop_reason") != TIME_BUDGET:
        overrides["max_minutes"] = NONE_TEXT  # this machine may need more time
    return overrides | {
        "experiment": str(client.get_experiment(original.experiment_id).name),
        "run_name": f"{original.name} again",
        "register_as": NONE_TEXT,
    }


def _find_device(
    original: RecordedRun, settings: Mapping[str, str], config: ReproduceConfig
) -> torch.device:
    try:
        return find_device(settings.get("device", AUTO_TEXT))
    except InvalidParameterError as error:
        if config.device is None:
            error.hint = (
                f"The device is that of run {original.run_id}. Choose another one, for example "
                "with --device auto."
            )
        raise


def _read_precision(original: RecordedRun, settings: Mapping[str, str]) -> str | None:
    """Return the precision that the original was trained in; None if it is not recorded."""
    precision = settings.get("precision", AUTO_TEXT)
    return original.params.get("resolved_precision") if precision == AUTO_TEXT else precision


def _choose_precision(original: RecordedRun, precision: str | None, device: torch.device) -> str:
    """Return the original's precision; fp32 on a device of another type that does not have it.

    On the same type of device, even a slow precision is kept, because its results are comparable.
    """
    if precision is None:
        return AUTO_TEXT
    is_same_type = original.params.get("resolved_device", "").partition(":")[0] == device.type
    return precision if is_same_type or supports_precision(device, precision) else "fp32"


def _describe_precision(
    original: str | None, precision: str, device: torch.device
) -> tuple[str, ...]:
    if original in (None, precision):
        return ()
    return (
        f"precision is {precision}, not {original} as in the original: device {device} has no fast "
        f"{original}",
    )


def _restore_split(original: RecordedRun, settings: Mapping[str, str]) -> TrainPlan:
    """Plan the run; split the data of a search's trial by the search's seed, not the trial's."""
    seed = original.tags.get(_SPLIT_SEED_TAG)
    if seed is None or "random_seed" not in settings:
        return plan_training(settings)
    plan = plan_training({**settings, "random_seed": seed})
    return replace(plan, config=replace(plan.config, random_seed=int(settings["random_seed"])))
