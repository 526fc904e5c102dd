"""MODEL, as a folder: ours or Azure's, trained or not, told apart by the file that describes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from trialrun.errors import InvalidModelDirectoryError
from trialrun.files import hash_file
from trialrun.models import azure, directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, StoredModel
from trialrun.models.head import transfer_head
from trialrun.models.names import (
    ARCHITECTURES,
    AZURE_DESCRIPTION,
    DEFAULT_WEIGHTS,
    OUR_DESCRIPTION,
    check_model_name,
)
from trialrun.models.weights import load_initial_state, read_state_file
from trialrun.models.zoo import (
    build_network,
    check_image_size,
    find_head_prefix,
    load_pretrained_state,
)


def open_classifier(folder: Path) -> ImageClassifier:
    """The trained network in a ModelDirectory of ours or Azure's, in eval mode.

    Raises:
        InvalidModelDirectoryError: Neither, not trained, or damaged.
    """
    if (folder / OUR_DESCRIPTION).is_file():
        return directory.read_model_directory(folder).classifier()
    if (folder / AZURE_DESCRIPTION).is_file():
        return azure.read_trained(folder)
    raise InvalidModelDirectoryError(
        f"{folder} is no model directory",
        "Give a ModelDirectory of trialrun's or Azure's, models:/NAME/VERSION or runs:/ID/model.",
    )


def create_network(
    model: str,
    num_classes: int,
    *,
    image_size: int,
    weights: str | None,
    classes: Sequence[str] = (),
    note: Callable[[str], None] | None = None,
) -> tuple[ModelDescription, nn.Module]:
    """The network to train: one of the zoo by name, or what a model directory describes.

    `weights` (None, `default`, a file or a model directory) takes the place of weights that the
    directory holds or, as Azure's with `pretrained: true`, names. Fresh weights are drawn from
    torch's global generator. Of a trained directory the rows of the last layer move to the place
    that `classes` gives to their class; `note` is given how many did.

    Raises:
        InvalidModelDirectoryError: `model` is neither, or its weights do not fit.
        InvalidParameterError: The image size does not fit, or weights cannot be downloaded.
    """
    check_model_name(model)
    stored = None if model in ARCHITECTURES else _read_model(Path(model).expanduser())
    description = ModelDescription(model) if stored is None else stored.description
    network = build_network(
        description.architecture,
        num_classes,
        image_size=image_size,
        arguments=description.arguments,
    )
    if start := _find_initial_state(description.architecture, stored, weights):
        _load_weights(network, start, classes, note)
    check_image_size(network, description.architecture, image_size)
    return description, network


@dataclass(frozen=True, slots=True)
class InitialState:
    """A state dict to start from, its classes in index order where they are known, its place."""

    state: Mapping[str, Tensor]
    classes: tuple[str, ...]
    source: Path


def _find_initial_state(
    architecture: str, stored: StoredModel | None, weights: str | None
) -> InitialState | None:
    """What `weights` names, else what the model directory holds; None where they are drawn."""
    if weights == DEFAULT_WEIGHTS:
        return InitialState(load_pretrained_state(architecture), (), Path(architecture))
    if weights is not None:
        return read_initial_state(Path(weights).expanduser(), architecture)
    return None if stored is None else _read_directory_state(stored)


def _read_directory_state(stored: StoredModel) -> InitialState | None:
    """The weights that a directory holds or, as Azure's with `pretrained: true`, names."""
    if stored.wants_default_weights:
        asked_by = f"{stored.folder / AZURE_DESCRIPTION}, pretrained: true"
        state = load_pretrained_state(stored.description.architecture, asked_by)
        return InitialState(state, (), stored.folder)
    if stored.state is None:
        return None
    return InitialState(stored.state, stored.description.classes, stored.folder)


def read_initial_state(source: Path, architecture: str) -> InitialState:
    """The state dict in a file of weights or in a model directory.

    Raises:
        InvalidModelDirectoryError: It cannot be read, holds no weights, or is a directory of
            another network.
    """
    if not source.is_dir():
        return InitialState(read_state_file(source), (), source)
    stored = _read_model(source)
    theirs = stored.description.architecture
    if theirs != architecture:
        raise InvalidModelDirectoryError(
            f"{source} holds weights of {theirs}, not of {architecture}", f"Set model={theirs}."
        )
    if (state := _read_directory_state(stored)) is None:
        raise InvalidModelDirectoryError(
            f"{source} holds no weights", "Give a trained model, or weights=none."
        )
    return state


def _load_weights(
    network: nn.Module,
    start: InitialState,
    classes: Sequence[str],
    note: Callable[[str], None] | None,
) -> None:
    prefix, state = find_head_prefix(network), start.state
    if start.classes and classes:
        head = transfer_head(
            network.state_dict(),
            state,
            prefix,
            old_classes=start.classes,
            new_classes=classes,
        )
        state = {**state, **head.tensors}
        if note is not None:
            note(str(head))
    load_initial_state(network, state, prefix, start.source)


def _read_model(folder: Path) -> StoredModel:
    """A model directory of ours or Azure's, trained or not.

    Raises:
        InvalidModelDirectoryError: Neither, or damaged.
    """
    ours = (folder / OUR_DESCRIPTION).is_file()
    return directory.read_model_directory(folder) if ours else azure.read_untrained(folder)


def read_directory_digests(folder: Path) -> dict[str, str]:
    """The sha256 of each data file of a model directory.

    Raises:
        InvalidModelDirectoryError: Damaged.
    """
    if (folder / OUR_DESCRIPTION).is_file():
        return directory.read_file_digests(folder)
    return {path.name: hash_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
