"""MODEL, as a folder: ours or Azure's, trained or not, told apart by the file that describes it."""

from pathlib import Path

from torch import nn

from trialrun.errors import InvalidModelDirectoryError
from trialrun.models import azure, directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription
from trialrun.models.names import (
    ARCHITECTURES,
    AZURE_DESCRIPTION,
    DEFAULT_WEIGHTS,
    OUR_DESCRIPTION,
    check_name,
)
from trialrun.models.weights import load_initial, read_state
from trialrun.models.zoo import build, check_image_size, head_prefix, pretrained_state


def open_classifier(folder: Path) -> ImageClassifier:
    """The trained network in a ModelDirectory of ours or Azure's, in eval mode.

    Raises:
        InvalidModelDirectoryError: Neither, not trained, or damaged.
    """
    if (folder / OUR_DESCRIPTION).is_file():
        return directory.read(folder).classifier()
    if (folder / AZURE_DESCRIPTION).is_file():
        return azure.read_trained(folder)
    raise InvalidModelDirectoryError(
        f"{folder} is no model directory",
        "Give a ModelDirectory of trialrun's or Azure's, models:/NAME/VERSION or runs:/ID/model.",
    )


def new_network(
    model: str, num_classes: int, *, image_size: int, weights: str | None
) -> tuple[ModelDescription, nn.Module]:
    """The network to train: one of the zoo by name, or what an UntrainedModelDirectory describes.

    `weights` (None, `default` or a file) takes the place of weights that the directory holds or, as
    Azure's with `pretrained: true`, names. Fresh weights are drawn from torch's global generator.

    Raises:
        InvalidModelDirectoryError: `model` is neither, or its weights do not fit.
        InvalidParameterError: The image size does not fit, or weights cannot be downloaded.
    """
    check_name(model)
    folder, asked_by = Path(model).expanduser(), f"weights={DEFAULT_WEIGHTS}"
    if model in ARCHITECTURES:
        description, state = ModelDescription(model), None
    else:
        ours = (folder / OUR_DESCRIPTION).is_file()
        stored = directory.read(folder) if ours else azure.read_untrained(folder)
        description, state = stored.description, stored.state
        if weights is None and stored.wants_default_weights:
            weights, asked_by = DEFAULT_WEIGHTS, f"{folder / AZURE_DESCRIPTION}, pretrained: true"
    network = build(
        description.architecture,
        num_classes,
        image_size=image_size,
        arguments=description.arguments,
    )
    source = folder
    if weights == DEFAULT_WEIGHTS:
        state = pretrained_state(description.architecture, asked_by)
    elif weights is not None:
        source = Path(weights).expanduser()
        state = read_state(source)
    if state is not None:
        load_initial(network, state, head_prefix(network), source)
    check_image_size(network, description.architecture, image_size)
    return description, network
