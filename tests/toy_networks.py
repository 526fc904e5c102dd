"""Small networks with weights of their own, and trained model directories of them."""

from pathlib import Path

import torch
from torch import nn

from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import directory
from trialrun.models.directory import ModelDescription
from trialrun.models.open import create_network
from trialrun.models.weights import serialize_state
from trialrun.models.zoo import build_network

SMALL = "shufflenet_v2_x0_5"


def network_of(name: str = SMALL, num_classes: int = 3, *, seed: int = 7) -> nn.Module:
    """A network with weights of a seed of its own."""
    torch.manual_seed(seed)
    return build_network(name, num_classes, image_size=32)


def started_from(path: Path, name: str = SMALL) -> dict[str, torch.Tensor]:
    """The initial state dict of a network of three classes with `weights=path`."""
    return create_network(name, 3, image_size=32, weights=str(path))[1].state_dict()


def write_model(
    folder: Path, name: str, classes: tuple[str, ...], preprocessing: Preprocessing | None = None
) -> nn.Module:
    """A trained ModelDirectory, and the network in it."""
    network = network_of(name, len(classes))
    described = ModelDescription(name, {}, classes, preprocessing or Preprocessing(32))
    directory.write_model_directory(folder, described, serialize_state(network.state_dict()))
    return network
