"""The initial weights of a run: finds, describes and hashes what `model` and `weights` name."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from trialrun.config import TrainConfig
from trialrun.files import hash_file
from trialrun.models.initial import InitialWeights, describe_initial_weights
from trialrun.models.names import DEFAULT_WEIGHTS, is_network_name
from trialrun.models.open import read_directory_digests
from trialrun.models.weights import hash_state
from trialrun.runs.datasets.sources import find_local_path
from trialrun.runs.training.plan import TrainPlan

INITIAL_WEIGHTS = "initial_weights_sha256"
MODEL_DIRECTORY = "model_directory_sha256"
WEIGHTS_FILE = "weights_file_sha256"
TRANSFORMS = "transforms_sha256"


def resolve_model(plan: TrainPlan) -> str:
    """Return the architecture's name, or the local folder of the model."""
    return find_local_path(plan.config.model, plan.local_paths)


def resolve_weights(plan: TrainPlan) -> str | None:
    """Return None, `default`, or the local file or folder of the initial weights."""
    weights = plan.config.weights
    return None if weights is None else find_local_path(weights, plan.local_paths)


def describe_source(config: TrainConfig) -> str:
    """Return the setting that provides the initial weights, as it was typed."""
    return f"model={config.model}" if config.weights is None else f"weights={config.weights}"


def describe_initial(plan: TrainPlan) -> InitialWeights:
    """Return whether the initial weights are random, and what images they and the network expect.

    Raises:
        InvalidModelDirectoryError: The description of the model cannot be read.
    """
    return describe_initial_weights(resolve_model(plan), resolve_weights(plan))


def compute_initial_params(plan: TrainPlan, network: nn.Module) -> dict[str, str]:
    """Return the MLflow parameters that identify the initial weights and the files of the settings.

    Raises:
        InvalidModelDirectoryError: A directory is damaged.
    """
    return {INITIAL_WEIGHTS: hash_state(network.state_dict()), **hash_sources(plan)}


def hash_sources(plan: TrainPlan) -> dict[str, str]:
    """Return the digests of what `model`, `weights` and `transforms` name, by parameter.

    A network's name, `default` and `none` have no digest. The digest of transforms covers the
    parsed list, so that its formatting does not count.

    Raises:
        InvalidModelDirectoryError: A directory is damaged.
    """
    digests = {
        MODEL_DIRECTORY: _hash_directories(plan),
        WEIGHTS_FILE: _hash_weights_file(plan),
        TRANSFORMS: _hash_transforms(plan),
    }
    return {name: sha256 for name, sha256 in digests.items() if sha256 is not None}


def _hash_weights_file(plan: TrainPlan) -> str | None:
    weights = resolve_weights(plan)
    if weights is None or weights == DEFAULT_WEIGHTS:
        return None
    path = Path(weights).expanduser()
    return hash_file(path) if path.is_file() else None


def _hash_transforms(plan: TrainPlan) -> str | None:
    if plan.config.transforms is None:
        return None
    steps = json.dumps([step.to_json() for step in plan.transforms], sort_keys=True)
    return hashlib.sha256(steps.encode()).hexdigest()


def _hash_directories(plan: TrainPlan) -> str | None:
    """Return one hash of the model directories in `model` and `weights`; None without one."""
    digest = hashlib.sha256()
    folders = {
        "model": _find_directory(resolve_model(plan)),
        "weights": _find_directory(resolve_weights(plan)),
    }
    existing = {name: folder for name, folder in folders.items() if folder is not None}
    for name, folder in existing.items():
        for file, sha256 in read_directory_digests(folder).items():
            digest.update(f"{name} {file} {sha256}\n".encode())
    return digest.hexdigest() if existing else None


def _find_directory(name: str | None) -> Path | None:
    """Return the folder that a setting names; None for an architecture, a file and `default`."""
    if name is None or name == DEFAULT_WEIGHTS or is_network_name(name):
        return None
    path = Path(name).expanduser()
    return path if path.is_dir() else None


def find_likely_mistakes(config: TrainConfig, initial: InitialWeights) -> Iterator[str]:
    """Yield one sentence per setting that probably does not do what the user expects."""
    if config.freeze == "backbone" and initial.are_random:
        yield (
            "freeze=backbone keeps the random weights of every layer but the last: set "
            "weights=default, or weights=FILE"
        )
    mixing = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if mixing:
        yield (
            f"train_accuracy compares predictions for mixed images ({', '.join(mixing)}) with the "
            "labels from before the mixing, so it is too low: compare valid_accuracy"
        )
