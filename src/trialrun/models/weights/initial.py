"""Image sizes and preprocessing expected by networks and initial weights.

No weights are downloaded for this: the preprocessing of torchvision's weights comes from
torchvision's metadata.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from trialrun.files import hash_file
from trialrun.images.decoding.fitting import CROP
from trialrun.images.decoding.gray_values import ValueRange
from trialrun.images.decoding.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from trialrun.images.scanning.scan import DEFAULT_IMAGE_SIZE
from trialrun.models import azure, directory
from trialrun.models.directory import ModelDescription
from trialrun.models.weights.published import describe_default_weights, describe_published_file
from trialrun.models.zoo.names import (
    DEFAULT_WEIGHTS,
    DESCRIPTION_FILE,
    TIMM_PREFIX,
    check_model_name,
    is_network_name,
)
from trialrun.models.zoo.timm import find_fixed_size

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
    """Size, fit and normalisation of the images to train a network on. Sizes in pixels.

    Attributes:
        crop_fraction: As in `Preprocessing`.
        interpolation: As in `Preprocessing`.
        fit: As in `Preprocessing`.
        value_range: As in `Preprocessing`.
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
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    fit: str = CROP
    value_range: ValueRange | None = None

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

    Both settings are names or paths. A file of weights does not record its preprocessing: unless
    torchvision published the file, ImageNet's mean and standard deviation are assumed.

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


def read_architecture(model: str) -> str:
    """Return the name of the network that the setting `model` selects.

    Raises:
        InvalidModelDirectoryError: `model` is neither a network nor a model directory.
    """
    check_model_name(model)
    if is_network_name(model):
        return model
    return _describe_directory(Path(model).expanduser())[0].architecture


def describe_weights(architecture: str, weights: str) -> Preprocessing | None:
    """Return the preprocessing that `weights` were trained with.

    Returns None for a file of weights that torchvision did not publish: it does not record it.

    Raises:
        InvalidModelDirectoryError: The directory is damaged.
    """
    description, source = _describe_weights(architecture, weights)
    if source == DEFAULT_WEIGHTS:
        return describe_default_weights(architecture)
    preprocessing = description.preprocessing
    return None if preprocessing is None else replace(preprocessing, steps=())


def _describe_weights(architecture: str, weights: str) -> tuple[ModelDescription, str | None]:
    path = Path(weights).expanduser()
    if weights == DEFAULT_WEIGHTS:
        return ModelDescription(architecture), weights
    if path.is_dir():
        return _describe_directory(path)
    try:
        sha256 = hash_file(path)
    except OSError:  # reported by the reader of the file
        return ModelDescription(architecture), weights
    preprocessing = describe_published_file(architecture, sha256)
    return ModelDescription(architecture, preprocessing=preprocessing), weights


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
    expected = replace(
        expected,
        mean=trained_with.mean,
        std=trained_with.std,
        crop_fraction=trained_with.crop_fraction,
        interpolation=trained_with.interpolation,
        fit=trained_with.fit,
        value_range=trained_with.value_range,
    )
    image_size = trained_with.image_size
    if image_size is None:
        return expected
    # A ViT has one embedding per patch, and their number depends on the image size.
    required_size = image_size if architecture.startswith("vit_") else expected.required_size
    return replace(expected, weights_size=image_size, required_size=required_size)
