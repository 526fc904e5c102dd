"""The initial weights of a run: finds, describes and hashes what `model` and `weights` name."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from trialrun.config import NONE_TEXT, TrainConfig
from trialrun.models.initial import InitialWeights, describe_initial_weights
from trialrun.models.names import ARCHITECTURES, DEFAULT_WEIGHTS
from trialrun.models.open import read_directory_digests
from trialrun.models.weights import hash_state
from trialrun.runs.datasets.sources import find_local_path
from trialrun.runs.training.plan import TrainPlan

INITIAL_WEIGHTS = "initial_weights_sha256"
_MODEL_DIRECTORY = "model_directory_sha256"


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


def describe_changes(
    settings: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[str, ...]:
    """Describe how the initial weights of two runs with the same settings differ.

    `before` and `after` are the parameters of the runs. A digest that one of them lacks, because an
    earlier version recorded it, is not compared.
    """
    model, weights = (settings.get(name, NONE_TEXT) for name in ("model", "weights"))
    source = f"model={model}" if weights == NONE_TEXT else f"weights={weights}"
    if _compare_digests(INITIAL_WEIGHTS, before, after):
        if _compare_digests("num_classes", before, after):
            cause = f"there are {after['num_classes']} classes, not {before['num_classes']}"
        elif weights == NONE_TEXT and _MODEL_DIRECTORY not in after:
            cause = f"{source} draws other random weights, as another version of torch may do"
        else:
            cause = f"{source} contains other weights"
        return (f"the initial weights differ from those of the original: {cause}",)
    if _compare_digests(_MODEL_DIRECTORY, before, after):
        return (f"{source} has changed since the original, but its weights have not",)
    return ()


def _compare_digests(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    return name in before and name in after and before[name] != after[name]


def describe_initial(plan: TrainPlan) -> InitialWeights:
    """Return whether the initial weights are random, and what images they and the network expect.

    Raises:
        InvalidModelDirectoryError: The description of the model cannot be read.
    """
    return describe_initial_weights(resolve_model(plan), resolve_weights(plan))


def compute_initial_params(plan: TrainPlan, network: nn.Module) -> dict[str, str]:
    """Return the MLflow parameters that identify the initial weights of `network` and their source.

    Raises:
        InvalidModelDirectoryError: A directory is damaged.
    """
    params = {INITIAL_WEIGHTS: hash_state(network.state_dict())}
    sha256 = _hash_directories(plan)
    return params if sha256 is None else {**params, _MODEL_DIRECTORY: sha256}


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
    if name is None or name == DEFAULT_WEIGHTS or name in ARCHITECTURES:
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
