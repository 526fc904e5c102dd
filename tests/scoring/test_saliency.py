"""The places of an image that a prediction comes from."""

import numpy as np
import torch
from torch import nn

from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.saliency import compute_heat


def test_heat_is_where_the_class_is() -> None:
    """A network that sums the red of a place finds the red corner."""
    features = nn.Conv2d(3, 2, 1, bias=False)
    features.weight.data = torch.tensor([[1.0, -1, 0], [0, 1, 0]])[:, :, None, None]
    network = nn.Sequential(features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = ImageClassifier(network, ("red", "green"), Preprocessing(32)).eval()
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[0, 0, :8, :8] = 255
    pixels[1, 1, 24:, 24:] = 255
    heat = compute_heat(classifier, pixels, np.array([0, 1]))
    assert heat is not None
    assert heat.shape == (2, 32, 32)
    assert heat[0, 4, 4] > 2 * heat[0, 28, 28]
    assert heat[1, 28, 28] > 2 * heat[1, 4, 4]


def test_transformer_has_no_heat() -> None:
    """Its tokens are not places of the image."""
    network = build_network("vit_b_32", 2, image_size=32)
    classifier = ImageClassifier(network, ("a", "b"), Preprocessing(32)).eval()
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert compute_heat(classifier, pixels, np.array([0])) is None
