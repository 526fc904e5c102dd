"""What images a network and its initial weights expect, known before any weight is read.

The mean, the standard deviation and the size of torchvision's weights come from the metadata that
torchvision keeps with their addresses, so that nothing is downloaded for them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torchvision

from trialrun.images.decoding.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from trialrun.images.scanning.scan import DEFAULT_IMAGE_SIZE
from trialrun.models import azure, directory
from trialrun.models.directory import ModelDescription
from trialrun.models.names import ARCHITECTURES, DEFAULT_WEIGHTS, OUR_DESCRIPTION, check_model_name

# Networks that refuse small images: the least size they take, and what every size is a multiple of.
# All networks of torchvision 0.29 were built and run at 32 pixels, these also at every size up to
# 320: the others take any multiple of 32. MaxViT divides its feature maps into windows of 7.
_SIZES = {
    "alexnet": (63, 1),
    "inception_v3": (75, 1),
    "maxvit_t": (224, 224),
    "vit_h_14": (14, 14),
}


@dataclass(frozen=True, slots=True)
class ExpectedInput:
    """The images that a network should be trained on.

    Attributes:
        weights_size: The size of the images that the initial weights were trained on, in pixels;
            224 where they are random.
        kept_size: The size that a trained model goes on with, or None without one.
        only_size: The one size that the initial weights fit, or None where they fit several.
        least_size: The smallest size that the network takes.
        size_multiple: What every size must be a multiple of.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    weights_size: int = DEFAULT_IMAGE_SIZE
    kept_size: int | None = None
    only_size: int | None = None
    least_size: int = 1
    size_multiple: int = 1

    def choose_size(self, wanted: int) -> int:
        """The size nearest to `wanted` that suits the network and its initial weights."""
        if fixed := self.only_size or self.kept_size:
            return fixed
        size = max(min(wanted, self.weights_size), self.least_size)
        return -(-size // self.size_multiple) * self.size_multiple


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Whether a network starts from random weights, and the images that it expects."""

    are_random: bool
    expected_input: ExpectedInput


def describe_initial_weights(model: str, weights: str | None) -> InitialWeights:
    """Describe what training starts from, for `model` and `weights` as the settings give them.

    Both are paths where they are no names. A file of weights does not say what its images were:
    ImageNet's mean and deviation are assumed.

    Raises:
        InvalidModelDirectoryError: `model` is neither a network nor a model directory.
    """
    check_model_name(model)
    if model in ARCHITECTURES:
        described, source = ModelDescription(model), None
    else:
        described, source = _describe_directory(Path(model).expanduser())
    architecture = described.architecture
    if weights is not None:
        described, source = _describe_weights(architecture, weights)
    trained = described.preprocessing
    if source == DEFAULT_WEIGHTS:
        trained = describe_default_weights(architecture)
    expected = _expect_from_network(architecture)
    if trained is not None:
        expected = _expect_from_weights(expected, architecture, trained)
    if described.classes and trained is not None:
        expected = replace(expected, kept_size=trained.image_size)
    return InitialWeights(source is None, expected)


def describe_weights(architecture: str, weights: str) -> Preprocessing | None:
    """The size, the mean and the deviation of the images that `weights` were trained on.

    None of a file, which does not say it.

    Raises:
        InvalidModelDirectoryError: A directory that is damaged.
    """
    described, source = _describe_weights(architecture, weights)
    if source == DEFAULT_WEIGHTS:
        return describe_default_weights(architecture)
    trained = described.preprocessing
    return None if trained is None else replace(trained, steps=())


def describe_default_weights(architecture: str) -> Preprocessing:
    """The size, the mean and the deviation of the images torchvision's weights were trained on."""
    wanted = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    return Preprocessing(wanted.crop_size[0], tuple(wanted.mean), tuple(wanted.std))


def _describe_weights(architecture: str, weights: str) -> tuple[ModelDescription, str | None]:
    folder = Path(weights).expanduser()
    if weights != DEFAULT_WEIGHTS and folder.is_dir():
        return _describe_directory(folder)
    return ModelDescription(architecture), weights


def _describe_directory(folder: Path) -> tuple[ModelDescription, str | None]:
    if (folder / OUR_DESCRIPTION).is_file():
        return directory.read_description(folder)
    return azure.read_description(folder)


def _expect_from_network(architecture: str) -> ExpectedInput:
    least, multiple = _SIZES.get(architecture, (1, 1))
    return ExpectedInput(least_size=least, size_multiple=multiple)


def _expect_from_weights(
    expected: ExpectedInput, architecture: str, trained: Preprocessing
) -> ExpectedInput:
    """The input that a network expects once it has weights trained on images like `trained`."""
    changed = replace(expected, mean=trained.mean, std=trained.std)
    if trained.image_size is None:
        return changed
    # A ViT learns one embedding for each patch: weights of another size have another number.
    only = trained.image_size if architecture.startswith("vit_") else None
    return replace(changed, weights_size=trained.image_size, only_size=only)
