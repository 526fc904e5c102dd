"""Networks prepared for scoring: batch norm folded, convolutions fused, equal to the original."""

import pytest
import torch
from torch import nn

from tests.conftest import SMALL
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.engines.onednn import FusedConvolution
from trialrun.scoring.network import TorchNetwork, prepare_network

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d")
# One network of each family, and how many batch norms remain; DenseNet's precede convolutions.
FAMILIES = {
    "googlenet": 0,
    "mnasnet0_5": 0,
    "mobilenet_v2": 0,
    "resnet18": 0,
    "shufflenet_v2_x0_5": 0,
    "squeezenet1_1": 0,
}
LARGE_FAMILIES = {
    "convnext_tiny": 0,
    "densenet121": 62,
    "efficientnet_b0": 0,
    "inception_v3": 0,
    "mobilenet_v3_small": 0,
    "regnet_y_400mf": 0,
    "swin_t": 0,
    "vgg11_bn": 0,
    "vit_b_32": 0,
}
SIZES = {"inception_v3": 75}


def make_classifier(name: str, size: int = 32) -> ImageClassifier:
    """Return a network in eval mode whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = build_network(name, len(CLASSES), image_size=size)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return ImageClassifier(network, CLASSES, Preprocessing(size)).eval()


def make_pixels(num_images: int, size: int = 32) -> torch.Tensor:
    """Return random images."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator
    )


def count_modules(network: nn.Module, kind: type[nn.Module]) -> int:
    """Count the modules of a class."""
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "num_norms"),
    [
        *FAMILIES.items(),
        *(
            pytest.param(name, number, marks=pytest.mark.slow)
            for name, number in LARGE_FAMILIES.items()
        ),
    ],
)
def test_prepared_network_equals_the_original(name: str, num_norms: int) -> None:
    """Without batch norms after convolutions, each family computes the same probabilities."""
    size = SIZES.get(name, 32)
    classifier = make_classifier(name, size)
    pixels = make_pixels(3, size)
    expected = TorchNetwork(classifier, CPU).compute_probabilities(pixels)
    state = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}

    prepared = prepare_network(classifier, CPU)

    assert isinstance(prepared, TorchNetwork)
    assert count_modules(prepared.classifier, nn.BatchNorm2d) == num_norms
    assert count_modules(prepared.classifier, FusedConvolution) > 0
    torch.testing.assert_close(prepared.compute_probabilities(pixels), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(classifier.state_dict(), state, rtol=0, atol=0)


def test_network_that_folding_would_change_is_left_alone() -> None:
    """Where a hidden use of a convolution's result makes folding wrong, nothing is folded."""

    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[0] < 0:  # torch.fx cannot trace this
                return images
            result: torch.Tensor = self.body(images) + 9 * self.body[0](images)
            return result.mean((2, 3))

    network = Reused()
    norm = network.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.weight.data.fill_(3.0)
    classifier = ImageClassifier(network, CLASSES, Preprocessing(32)).eval()
    prepared = prepare_network(classifier, CPU)
    assert isinstance(prepared, TorchNetwork)
    assert prepared.classifier is classifier


def test_untraceable_network_is_folded_in_its_parts() -> None:
    """A branch on values stops the trace of the whole, but not of the sequence inside."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[0] < 0:
                return images
            result: torch.Tensor = self.body(images)
            return result.mean((2, 3))

    classifier = ImageClassifier(Branching(), CLASSES, Preprocessing(32)).eval()
    prepared = prepare_network(classifier, CPU)
    assert isinstance(prepared, TorchNetwork)
    assert count_modules(prepared.classifier, nn.BatchNorm2d) == 0


def test_batch_size_does_not_change_the_probabilities() -> None:
    """The layout of fused weights suits one image and is right for any number of them."""
    network = prepare_network(make_classifier(SMALL), CPU)
    pixels = make_pixels(5)
    together = network.compute_probabilities(pixels)
    alone = torch.cat([network.compute_probabilities(image[None]) for image in pixels])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
