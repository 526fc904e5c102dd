"""Image sizes and normalisation expected by networks and initial weights.

No weights are read or downloaded for this: the mean, the standard deviation and the image size of
torchvision's weights come from torchvision's metadata.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torchvision

from trialrun.images.decoding.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from trialrun.images.scanning.scan import DEFAULT_IMAGE_SIZE
from trialrun.models import azure, directory
from trialrun.models.directory import ModelDescription
from trialrun.models.names import (
    DEFAULT_WEIGHTS,
    DESCRIPTION_FILE,
    TIMM_PREFIX,
    check_model_name,
    is_network_name,
)
from trialrun.models.timm_zoo import describe_timm_weights, find_fixed_size

# Networks that do not take every multiple of 32 pixels: their smallest image size, and the number
# of which every size is a multiple. Measured with torchvision 0.29: all networks at 32 pixels, and
# these at every size up to 320. MaxViT divides its feature maps into windows of 7.
_SIZES = {
    "alexnet": (63, 1),
    "inception_v3": (75, 1),
    "maxvit_t": (224, 224),
    "vit_h_14": (14, 14),
}


@dataclass(frozen=True, slots=True)
class ExpectedInput:
    """Normalisation and size of the images that a network should be trained on. Sizes in pixels.

    Attributes:
        weights_size: Image size that the initial weights were trained with; 224 if random.
        trained_size: Image size of the trained model that training starts from, or None.
        required_size: The only image size that the initial weights support, or None if several.
        min_size: Smallest image size that the network takes.
        size_multiple: Every image size must be a multiple of this.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    weights_size: int = DEFAULT_IMAGE_SIZE
    trained_size: int | None = None
    required_size: int | None = None
    min_size: int = 1
    size_multiple: int = 1

    def choose_size(self, image_size: int) -> int:
        """Return the size nearest to `image_size` that the network and its weights support."""
        if fixed := self.required_size or self.trained_size:
            return fixed
        size = max(min(image_size, self.weights_size), self.min_size)
        return -(-size // self.size_multiple) * self.size_multiple


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Whether a network starts from random weights, and the images that it expects."""

    are_random: bool
    expected_input: ExpectedInput


def describe_initial_weights(model: str, weights: str | None) -> InitialWeights:
    """Describe the initial weights that the settings `model` and `weights` select.

    Both settings are names or paths. A file of weights does not record its normalisation;
    ImageNet's mean and standard deviation are assumed.

    Raises:
        InvalidModelDirectoryError: `model` is neither a network nor a model directory.
    """
    check_model_name(model)
    if is_network_name(model):
        description, source = ModelDescription(model), None
    else:
        description, source = _describe_directory(Path(model).expanduser())
    architecture = description.architecture
    if weights is not None:
        description, source = _describe_weights(architecture, weights)
    preprocessing = description.preprocessing
    if source == DEFAULT_WEIGHTS:
        preprocessing = describe_default_weights(architecture)
    expected = _expect_from_network(architecture)
    if preprocessing is not None:
        expected = _expect_from_weights(expected, architecture, preprocessing)
    if description.classes and preprocessing is not None:
        expected = replace(expected, trained_size=preprocessing.image_size)
    return InitialWeights(source is None, expected)


def describe_weights(architecture: str, weights: str) -> Preprocessing | None:
    """Return the image size and normalisation that `weights` were trained with.

    Returns None for a file of weights, which does not record them.

    Raises:
        InvalidModelDirectoryError: The directory is damaged.
    """
    description, source = _describe_weights(architecture, weights)
    if source == DEFAULT_WEIGHTS:
        return describe_default_weights(architecture)
    preprocessing = description.preprocessing
    return None if preprocessing is None else replace(preprocessing, steps=())


def describe_default_weights(architecture: str) -> Preprocessing:
    """Return the image size and normalisation that the published weights were trained with."""
    if architecture.startswith(TIMM_PREFIX):
        return describe_timm_weights(architecture)
    transforms = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    return Preprocessing(transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std))


def _describe_weights(architecture: str, weights: str) -> tuple[ModelDescription, str | None]:
    folder = Path(weights).expanduser()
    if weights != DEFAULT_WEIGHTS and folder.is_dir():
        return _describe_directory(folder)
    return ModelDescription(architecture), weights


def _describe_directory(folder: Path) -> tuple[ModelDescription, str | None]:
    if (folder / DESCRIPTION_FILE).is_file():
        return directory.read_description(folder)
    return azure.read_description(folder)


def _expect_from_network(architecture: str) -> ExpectedInput:
    if architecture.startswith(TIMM_PREFIX):
        return ExpectedInput(required_size=find_fixed_size(architecture))
    min_size, multiple = _SIZES.get(architecture, (1, 1))
    return ExpectedInput(min_size=min_size, size_multiple=multiple)


def _expect_from_weights(
    expected: ExpectedInput, architecture: str, trained_with: Preprocessing
) -> ExpectedInput:
    """Return `expected` changed to the preprocessing that the weights were trained with."""
    expected = replace(expected, mean=trained_with.mean, std=trained_with.std)
    image_size = trained_with.image_size
    if image_size is None:
        return expected
    # A ViT has one embedding per patch, and their number depends on the image size.
    required_size = image_size if architecture.startswith("vit_") else expected.required_size
    return replace(expected, weights_size=image_size, required_size=required_size)
