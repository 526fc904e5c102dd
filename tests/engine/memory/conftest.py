"""Small networks, and one that fits in memory up to a number of images."""

import torch
from torch import Tensor, nn

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing

NUM_IMAGES = 36  # batches of 8: four full ones and one of 4; of 24: one, and one of 12
DATA = TrainingData(make_dataset(NUM_IMAGES), make_dataset(9, seed=1), 3, Preprocessing(SIZE))


class LimitedMemory(nn.Module):
    """A layer without effect that has memory for a number of images only."""

    def __init__(self, max_images: int) -> None:
        super().__init__()
        self.max_images = max_images
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return `images`, or raise as torch does on a GPU."""
        self.calls.append(len(images))
        if len(images) > self.max_images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return images


def build_plain_network(*layers: nn.Module) -> nn.Sequential:
    """Build a network without batch norm."""
    torch.manual_seed(1)
    body = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(900, 3))
    return nn.Sequential(*body)


def build_norm_network(*layers: nn.Module) -> nn.Sequential:
    """Build a network with batch norm."""
    return build_plain_network(nn.BatchNorm2d(4), *layers)


def init_state(network: nn.Sequential, config: TrainConfig) -> TrainState:
    """Return the state of `network` before its first step."""
    head = f"{len(network) - 1}."
    return init_train_state(network, head, DATA, config, CPU)
