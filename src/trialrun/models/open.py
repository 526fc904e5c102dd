"""Networks and their initial weights, from torchvision or from a model directory.

A model directory has trialrun's format or Azure ML designer's, recognised by its description file.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trialrun.errors import InvalidModelDirectoryError
from trialrun.files import hash_file
from trialrun.models import azure, directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, StoredModel
from trialrun.models.manifest import WEIGHTS
from trialrun.models.weights.head import transfer_head
from trialrun.models.weights.published import load_pretrained_state
from trialrun.models.weights.serialization import (
    find_replaced_head,
    load_initial_state,
    read_state_file,
)
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.head_draw import HeadDraw, find_head_draw
from trialrun.models.zoo.names import (
    AZURE_DESCRIPTION_FILE,
    DEFAULT_WEIGHTS,
    DESCRIPTION_FILE,
    check_model_directory,
    check_model_name,
    is_network_name,
)
from trialrun.models.zoo.networks import (
    build_network,
    check_image_size,
    find_head_prefix,
)


def open_classifier(folder: Path) -> ImageClassifier:
    """Return the trained network in a model directory, in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a model directory, not trained, or damaged.
    """
    if (folder / DESCRIPTION_FILE).is_file():
        return directory.read_model_directory(folder).build_classifier()
    if (folder / AZURE_DESCRIPTION_FILE).is_file():
        return azure.read_trained(folder)
    raise InvalidModelDirectoryError(
        f"{folder} is not a model directory",
        "Give a model directory of trialrun or Azure ML designer, models:/NAME/VERSION or "
        "runs:/ID/model.",
    )


@dataclass(frozen=True, slots=True)
class InitialNetwork:
    """A network with its initial weights; a new head is a last layer with random weights.

    `head_draw` draws those of the head again; None if the network has to be built for that.
    """

    description: ModelDescription
    network: nn.Module
    has_new_head: bool
    head_draw: HeadDraw | None = None


def create_network(
    model: str,
    num_classes: int,
    *,
    image_size: int,
    weights: str | None,
    classes: Sequence[str] = (),
    note: Callable[[str], None] | None = None,
) -> InitialNetwork:
    """Create the network to train: a network by name, or the one of a model directory.

    `weights` (None, `default`, a file or a model directory) replaces the weights that the directory
    contains or names. Random weights are drawn from torch's global generator. If the initial
    weights have classes, rows of the last layer are transferred to the same names in `classes`.
    `note` is called with a message about the last layer if it is not loaded as it is.

    Raises:
        InvalidModelDirectoryError: `model` is neither, or its weights do not match the network.
        InvalidParameterError: The network does not take the image size, or weights cannot be
            downloaded.
    """
    check_model_name(model)
    stored = None if is_network_name(model) else _read_model(Path(model).expanduser())
    description = ModelDescription(model) if stored is None else stored.description
    initial = _find_initial_state(description.architecture, stored, weights)
    generator, no_values = torch.get_rng_state(), NoRandomValues(num_random_rows=num_classes)
    with nullcontext() if initial is None else no_values:
        network = build_network(
            description.architecture,
            num_classes,
            image_size=image_size,
            arguments=description.arguments,
        )
    head_draw, has_new_head = None, True
    if initial is not None:
        head_draw = find_head_draw(network, find_head_prefix(network), no_values.calls, generator)
        has_new_head = _load_weights(network, initial, classes, note)
    check_image_size(network, description.architecture, image_size)
    return InitialNetwork(description, network, has_new_head, head_draw if has_new_head else None)


@dataclass(frozen=True, slots=True)
class InitialState:
    """A state dict to start from, its source, and its classes in index order if known.

    `is_published` is true for torchvision's weights: a new last layer is expected then.
    """

    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    source: Path
    is_published: bool = False


def _find_initial_state(
    architecture: str, stored: StoredModel | None, weights: str | None
) -> InitialState | None:
    """Return the weights that the setting or the model directory gives; None for random weights."""
    if weights == DEFAULT_WEIGHTS:
        state = load_pretrained_state(architecture)
        return InitialState(state, (), Path(architecture), is_published=True)
    if weights is not None:
        return read_initial_state(Path(weights).expanduser(), architecture)
    return None if stored is None else _read_directory_state(stored)


def _read_directory_state(stored: StoredModel) -> InitialState | None:
    """Return the weights of a directory, or torchvision's if it has `pretrained: true`."""
    if stored.needs_default_weights:
        setting = f"{stored.folder / AZURE_DESCRIPTION_FILE}, pretrained: true"
        state = load_pretrained_state(stored.description.architecture, setting)
        return InitialState(state, (), stored.folder, is_published=True)
    if stored.state is None:
        return None
    return InitialState(stored.state, stored.description.classes, stored.folder)


def read_initial_state(source: Path, architecture: str) -> InitialState:
    """Read the state dict in a file of weights or in a model directory.

    Raises:
        InvalidModelDirectoryError: It cannot be read, contains no weights, or is the directory of
            another network.
    """
    if not source.is_dir():
        return InitialState(read_state_file(source), (), source)
    stored = _read_model(source)
    stored_architecture = stored.description.architecture
    if stored_architecture != architecture:
        raise InvalidModelDirectoryError(
            f"{source} contains weights of {stored_architecture}, not of {architecture}",
            f"Set model={stored_architecture}.",
        )
    if (state := _read_directory_state(stored)) is None:
        raise InvalidModelDirectoryError(
            f"{source} contains no weights", "Give a trained model, or weights=none."
        )
    return state


def _load_weights(
    network: nn.Module,
    initial: InitialState,
    classes: Sequence[str],
    note: Callable[[str], None] | None,
) -> bool:
    """Load the initial weights; return whether the last layer keeps its random weights."""
    prefix, state = find_head_prefix(network), initial.state
    if initial.classes and classes:
        head = transfer_head(
            network.state_dict(),
            state,
            prefix,
            old_classes=initial.classes,
            new_classes=classes,
        )
        if note is not None:
            note(str(head))
        load_initial_state(network, {**state, **head.tensors}, prefix, initial.source)
        return head.num_kept == 0
    replaced = find_replaced_head(network, state, prefix)
    if replaced and note is not None and not initial.is_published:
        note(replaced)
    load_initial_state(network, state, prefix, initial.source)
    return bool(replaced)


def _read_model(folder: Path) -> StoredModel:
    """Read a model directory, trained or not.

    Raises:
        InvalidModelDirectoryError: Not a model directory, or damaged.
    """
    if (folder / DESCRIPTION_FILE).is_file():
        return directory.read_model_directory(folder)
    return azure.read_untrained(folder)


def read_trained_model(folder: Path) -> StoredModel:
    """Read a trained model directory of trialrun or Azure, as a network of the zoo.

    Raises:
        InvalidModelDirectoryError: Not a model directory, not trained, or damaged.
    """
    check_model_directory(folder, str(folder))
    stored = _read_model(folder)
    if not stored.description.classes or stored.state is None:
        raise InvalidModelDirectoryError(
            f"{folder} is not trained", "Train it: `trialrun train --model DIR`."
        )
    return stored


def read_directory_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each data file of a model directory.

    Raises:
        InvalidModelDirectoryError: Damaged.
    """
    if (folder / DESCRIPTION_FILE).is_file():
        return directory.read_file_digests(folder)
    return {path.name: hash_file(path) for path in sorted(folder.iterdir()) if path.is_file()}


def find_weights_sha256(folder: Path) -> str | None:
    """Return the sha256 of the weights file of a model directory; None without one.

    Raises:
        InvalidModelDirectoryError: Damaged.
    """
    if (folder / DESCRIPTION_FILE).is_file():
        return directory.read_file_digests(folder).get(WEIGHTS)
    if (folder / AZURE_DESCRIPTION_FILE).is_file():
        path = azure.find_weights_file(folder)
        return hash_file(path) if path.is_file() else None
    return None
