"""What a network starts from, as `model` and `weights` name it: found, described, identified."""

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
    """The network's name, or the folder on this machine that describes it."""
    return find_local_path(plan.config.model, plan.local_paths)


def resolve_weights(plan: TrainPlan) -> str | None:
    """None, `default`, or the file or folder on this machine that holds the initial weights."""
    weights = plan.config.weights
    return None if weights is None else find_local_path(weights, plan.local_paths)


def describe_source(config: TrainConfig) -> str:
    """The setting that the initial weights come from, as it was typed."""
    return f"model={config.model}" if config.weights is None else f"weights={config.weights}"


def describe_changes(
    settings: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[str, ...]:
    """How two runs with the same settings began differently, in words, by their parameters.

    Runs without a digest, as those recorded by earlier versions, are not judged by it.
    """
    model, weights = (settings.get(name, NONE_TEXT) for name in ("model", "weights"))
    source = f"model={model}" if weights == NONE_TEXT else f"weights={weights}"
    if _compare_digests(INITIAL_WEIGHTS, before, after):
        if _compare_digests("num_classes", before, after):
            cause = f"there are {after['num_classes']} classes, not {before['num_classes']}"
        elif weights == NONE_TEXT and _MODEL_DIRECTORY not in after:
            cause = f"{source} draws others, as another version of torch may"
        else:
            cause = f"{source} holds others"
        return (f"the initial weights are not those of the original: {cause}",)
    if _compare_digests(_MODEL_DIRECTORY, before, after):
        return (f"{source} has changed since the original, its weights have not",)
    return ()


def _compare_digests(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    return name in before and name in after and before[name] != after[name]


def describe_initial(plan: TrainPlan) -> InitialWeights:
    """Whether the initial weights are random, and the images that they and the network expect.

    Raises:
        InvalidModelDirectoryError: What describes the model cannot be read.
    """
    return describe_initial_weights(resolve_model(plan), resolve_weights(plan))


def compute_initial_params(plan: TrainPlan, network: nn.Module) -> dict[str, str]:
    """What identifies the weights of `network` before the first step, and where they came from.

    Raises:
        InvalidModelDirectoryError: A directory is damaged.
    """
    params = {INITIAL_WEIGHTS: hash_state(network.state_dict())}
    sha256 = _hash_directories(plan)
    return params if sha256 is None else {**params, _MODEL_DIRECTORY: sha256}


def _hash_directories(plan: TrainPlan) -> str | None:
    """What identifies the model directories that `model` and `weights` name; None without one."""
    digest = hashlib.sha256()
    folders = {
        "model": _find_directory(resolve_model(plan)),
        "weights": _find_directory(resolve_weights(plan)),
    }
    found = {name: folder for name, folder in folders.items() if folder is not None}
    for name, folder in found.items():
        for file, sha256 in read_directory_digests(folder).items():
            digest.update(f"{name} {file} {sha256}\n".encode())
    return digest.hexdigest() if found else None


def _find_directory(name: str | None) -> Path | None:
    """The folder that a setting names; None of a network, a file and torchvision's weights."""
    if name is None or name == DEFAULT_WEIGHTS or name in ARCHITECTURES:
        return None
    path = Path(name).expanduser()
    return path if path.is_dir() else None


def find_likely_mistakes(config: TrainConfig, initial: InitialWeights) -> Iterator[str]:
    """Describe each in one sentence with its consequence."""
    if config.freeze == "backbone" and initial.are_random:
        yield (
            "freeze=backbone keeps the random weights of every layer but the last: set "
            "weights=default, or weights=FILE"
        )
    mixing = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if mixing:
        yield (
            f"train_accuracy compares predictions for mixed images ({', '.join(mixing)}) with the "
            "labels from before the mixing, so that it is too low: compare valid_accuracy"
        )
