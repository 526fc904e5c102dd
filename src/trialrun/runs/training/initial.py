"""The initial weights of a run: finds, describes and hashes what `model` and `weights` name."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.errors import InvalidParameterError
from trialrun.models.open import read_directory_digests
from trialrun.models.weights.initial import (
    InitialWeights,
    describe_initial_weights,
    read_architecture,
)
from trialrun.models.weights.published import fetch_default_file
from trialrun.models.weights.serialization import hash_state_file
from trialrun.models.zoo.names import DEFAULT_WEIGHTS, is_network_name
from trialrun.runs.datasets.sources import find_local_path
from trialrun.runs.training.plan import TrainPlan

RESOLVED_WEIGHTS = "resolved_weights"
RANDOM = "random"  # the value of this parameter for random weights
INITIAL_WEIGHTS = "initial_weights_sha256"
MODEL_DIRECTORY = "model_directory_sha256"
WEIGHTS_FILE = "weights_file_sha256"
TRANSFORMS = "transforms_sha256"
CLASS_LIST = "class_list_sha256"

_FETCH_SECONDS = 20.0  # that weights=auto waits for a download


def resolve_model(plan: TrainPlan) -> str:
    """Return the architecture's name, or the local folder of the model."""
    return find_local_path(plan.config.model, plan.local_paths)


@dataclass(frozen=True, slots=True)
class ResolvedWeights:
    """The initial weights of a run, with `auto` resolved.

    Attributes:
        source: `default`, or the local file or folder; None for random weights and for those of the
            model directory.
        name: The source for the record: `random`, `default`, or the setting as it was typed.
    """

    source: str | None
    name: str

    @property
    def are_random(self) -> bool:
        """Whether training starts from random weights."""
        return self.name == RANDOM


def name_weights(plan: TrainPlan, source: str | None) -> ResolvedWeights:
    """Return the weights from `source`, which is as in `ResolvedWeights`.

    Raises:
        InvalidModelDirectoryError: The description of the model cannot be read.
    """
    if source == DEFAULT_WEIGHTS:
        return ResolvedWeights(source, source)
    if source is not None:
        return ResolvedWeights(source, str(plan.config.weights))
    are_random = describe_initial_weights(resolve_model(plan), None).are_random
    return ResolvedWeights(None, RANDOM if are_random else plan.config.model)


def read_weights_setting(plan: TrainPlan) -> str | None:
    """Return None, `default`, `auto`, or the local file or folder that `weights` names.

    `auto` is returned only for a network by name: a model directory keeps its own weights. A
    repeated run uses what `auto` was resolved to.
    """
    weights = plan.config.weights
    if weights == AUTO_TEXT:
        if not is_network_name(resolve_model(plan)) or plan.recorded_weights == RANDOM:
            return None
        return plan.recorded_weights or AUTO_TEXT
    return None if weights is None else find_local_path(weights, plan.local_paths)


def describe_source(config: TrainConfig, weights: ResolvedWeights) -> str:
    """Return the setting that provides the initial weights, as it was typed."""
    return f"model={config.model}" if weights.source is None else f"weights={config.weights}"


def describe_initial(plan: TrainPlan, weights: ResolvedWeights) -> InitialWeights:
    """Return whether the initial weights are random, and what images they and the network expect.

    Raises:
        InvalidModelDirectoryError: The description of the model cannot be read.
    """
    return describe_initial_weights(resolve_model(plan), weights.source)


def fetch_or_warn(architecture: str, note: Callable[[str], None]) -> bool:
    """Fetch torchvision's default weights within 20 s; note why if they cannot be had."""
    try:
        fetch_default_file(architecture, seconds=_FETCH_SECONDS, setting=f"weights={AUTO_TEXT}")
    except InvalidParameterError as error:
        note(f"{error}. Training starts from random weights, which need more images. {error.hint}")
        return False
    return True


def compute_initial_params(
    plan: TrainPlan, weights: ResolvedWeights, sha256: str
) -> dict[str, str]:
    """Return the MLflow parameters that identify the initial weights and the files of the settings.

    `sha256` is that of the initial weights, from `hash_state`.

    Raises:
        InvalidModelDirectoryError: A directory is damaged.
        InvalidParameterError: torchvision's weights cannot be downloaded.
    """
    return {INITIAL_WEIGHTS: sha256, **hash_sources(plan, weights)}


def hash_sources(plan: TrainPlan, weights: ResolvedWeights) -> dict[str, str]:
    """Return the name of the weights, and digests of what the settings name, by parameter.

    A network's name and random weights have no digest. The digest of transforms covers the parsed
    list, so that its formatting does not count.

    Raises:
        InvalidModelDirectoryError: A directory is damaged.
        InvalidParameterError: torchvision's weights cannot be downloaded.
    """
    digests = {
        RESOLVED_WEIGHTS: weights.name,
        MODEL_DIRECTORY: _hash_directories(plan, weights),
        WEIGHTS_FILE: _hash_weights_file(plan, weights),
        TRANSFORMS: _hash_transforms(plan),
        CLASS_LIST: _hash_class_order(plan),
    }
    return {name: sha256 for name, sha256 in digests.items() if sha256 is not None}


def _hash_weights_file(plan: TrainPlan, weights: ResolvedWeights) -> str | None:
    if weights.source is None:
        return None
    if weights.source == DEFAULT_WEIGHTS:
        architecture = read_architecture(resolve_model(plan))
        setting = f"weights={plan.config.weights}"
        return hash_state_file(fetch_default_file(architecture, setting=setting))
    path = Path(weights.source).expanduser()
    return hash_state_file(path) if path.is_file() else None


def _hash_transforms(plan: TrainPlan) -> str | None:
    if plan.config.transforms is None:
        return None
    steps = json.dumps([step.to_json() for step in plan.transforms], sort_keys=True)
    return hashlib.sha256(steps.encode()).hexdigest()


def _hash_class_order(plan: TrainPlan) -> str | None:
    """Hash the classes in order if a file lists them; digests of images cover the labels."""
    if plan.config.classes is None:
        return None
    return hashlib.sha256(json.dumps(plan.classes).encode()).hexdigest()


def _hash_directories(plan: TrainPlan, weights: ResolvedWeights) -> str | None:
    """Return one hash of the model directories in `model` and `weights`; None without one."""
    digest = hashlib.sha256()
    folders = {
        "model": _find_directory(resolve_model(plan)),
        "weights": _find_directory(weights.source),
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
    if config.class_sampling == "balanced" and config.class_weights == "balanced":
        yield (
            "class_sampling=balanced and class_weights=balanced both raise the share of small "
            "classes: together they overcorrect it"
        )
    mixing = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if mixing:
        yield (
            f"train_accuracy compares predictions for mixed images ({', '.join(mixing)}) with the "
            "labels from before the mixing, so it is too low: compare valid_accuracy"
        )
