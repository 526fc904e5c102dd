"""Small images in memory whose class is a colour, for tests of the engine."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.inputs.batches import ImageDataset

CPU = ComputeConfig(torch.device("cpu"), "fp32")
SIZE = 32


class Pictures:
    """Pictures in memory; a class is a colour channel that is brighter."""

    def __init__(self, num_images: int, *, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.labels = np.arange(num_images) % 3
        pixels = random.integers(0, 120, (num_images, 3, SIZE, SIZE))
        pixels[np.arange(num_images), self.labels] += 100
        self._pixels = torch.from_numpy(pixels.astype(np.uint8))

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8."""
        return self._pixels[torch.from_numpy(rows)]


def labelled(num_images: int, *, seed: int = 0) -> ImageDataset:
    """So many pictures of three classes."""
    pictures = Pictures(num_images, seed=seed)
    return ImageDataset(pictures, np.arange(num_images), pictures.labels)
