"""Small images in memory for tests of the engine; an image's class is its color."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.inputs.batches import ImageDataset

CPU = ComputeConfig(torch.device("cpu"), "fp32")
SIZE = 32


class InMemoryImages:
    """Random images of three classes; one color channel, that of the class, is brighter."""

    def __init__(self, num_images: int, *, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.labels = np.arange(num_images) % 3
        pixels = random.integers(0, 120, (num_images, 3, SIZE, SIZE))
        pixels[np.arange(num_images), self.labels] += 100
        self._pixels = torch.from_numpy(pixels.astype(np.uint8))

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (N, 3, S, S) uint8."""
        return self._pixels[torch.from_numpy(rows)]


def make_dataset(num_images: int, *, seed: int = 0) -> ImageDataset:
    """Make a labelled set of `num_images` images of three classes."""
    images = InMemoryImages(num_images, seed=seed)
    return ImageDataset(images, np.arange(num_images), images.labels)
