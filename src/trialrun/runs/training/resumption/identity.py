"""Identity of a run and its checkpoint: the same settings, images and model files.

Versions, processor and threads may differ: training then continues, but not bit-identically.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch

from trialrun.config import TrainConfig, as_text
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.errors import InvalidDatasetError, InvalidParameterError, TrialrunError, merge_errors
from trialrun.runs.training.environment import describe_environment
from trialrun.runs.training.initial import RESOLVED_WEIGHTS, hash_sources
from trialrun.runs.training.inputs.data import PreparedData
from trialrun.runs.training.plan import TrainPlan

# Settings that say where a run reads and writes, and not what it computes.
_FREE_SETTINGS = frozenset(
    {
        "train_data",  # compared by content
        "valid_data",
        "classes",
        "model",
        "weights",
        "transforms",
        "device",  # compared as part of the environment
        "precision",  # compared as resolved, by `restore_session`
        "experiment",
        "run_name",
        "register_as",
        "offline",
        "flush_seconds",
        "checkpoint_dir",
        "checkpoint_minutes",
        "checkpoint_artifacts",
        "smoke",  # its images are compared
    }
)
_SETTINGS, _IMAGES, _SOURCES, _ENVIRONMENT = "settings", "images", "sources", "environment"
_FREE_ENVIRONMENT = frozenset({"num_threads"})  # set to the recorded number


def describe_identity(
    plan: TrainPlan, data: PreparedData, compute: ComputeConfig
) -> dict[str, dict[str, Any]]:
    """Return settings, digests of images and model files, and the environment, as plain values."""
    names = [field.name for field in fields(TrainConfig) if field.name not in _FREE_SETTINGS]
    return {
        _SETTINGS: {name: as_text(getattr(plan.config, name)) for name in names},
        _IMAGES: {
            "training": data.train.hash_images(),
            "validation": data.valid.hash_images(),
        },
        _SOURCES: hash_sources(plan, data.weights),
        _ENVIRONMENT: describe_environment(compute),
    }


def check_identity(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that settings, images and model files are those of the interrupted run.

    Raises:
        InvalidParameterError: A setting or a model file has changed.
        InvalidDatasetError: The images have changed.
    """
    problems: list[TrialrunError] = []
    # Checkpoints of earlier versions lack new settings, whose defaults change nothing.
    settings = {field.name: as_text(field.default) for field in fields(TrainConfig)}
    if changed := list(_list_changes(settings | then[_SETTINGS], now[_SETTINGS])):
        problems.append(
            InvalidParameterError(
                f"settings differ from those of the interrupted run: {', '.join(changed)}",
                "Resume with the run's own settings, or train again.",
            )
        )
    if names := [name for name in now[_IMAGES] if now[_IMAGES][name] != then[_IMAGES].get(name)]:
        problems.append(
            InvalidDatasetError(
                f"the {' and '.join(names)} images have changed since the run was interrupted",
                "Restore the images, give their place with --train-data and --valid-data, or "
                "train again.",
            )
        )
    if then[_SOURCES] != now[_SOURCES]:
        names = sorted(
            name
            for name in then[_SOURCES].keys() | now[_SOURCES].keys()
            if then[_SOURCES].get(name) != now[_SOURCES].get(name)
        )
        problems.append(
            InvalidParameterError(
                f"files have changed since the run was interrupted: {', '.join(names)}",
                "Restore the files that model, weights and transforms name, or train again.",
            )
        )
    if problems:
        raise merge_errors(problems)


def describe_inexactness(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return why the resumed run will not be bit-identical; None if it will be, on a CPU."""
    changed = [
        text
        for text in _list_changes(then[_ENVIRONMENT], now[_ENVIRONMENT])
        if text.partition("=")[0] not in _FREE_ENVIRONMENT
    ]
    if not changed:
        return None
    return f"the resumed run will not be bit-identical: {', '.join(changed)}"


def _list_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in now:
        if name not in then:
            yield f"{name}={now[name]} (not recorded)"
        elif then[name] != now[name]:
            yield f"{name}={now[name]} (was {then[name]})"


def read_recorded_weights(then: Mapping[str, Any]) -> str | None:
    """Return what the setting `weights` was resolved to; None if it is not recorded."""
    recorded: str | None = then[_SOURCES].get(RESOLVED_WEIGHTS)
    return recorded


def use_recorded_threads(then: Mapping[str, Any]) -> None:
    """Set torch's threads to the recorded number: another number gives other sums."""
    threads = then[_ENVIRONMENT].get("num_threads")
    if isinstance(threads, int) and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
