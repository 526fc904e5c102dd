"""Training images at the size of the network's inputs, without augmentation."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.inputs.augment import resize_square
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.data import InputTransform


def resize_dataset(data: ImageDataset, preprocessing: InputTransform) -> ImageDataset:
    """Return the images of `data` as inference sees them."""
    return replace(data, source=_ResizedSource(data, preprocessing), aspects=None)


@dataclass(frozen=True, slots=True)
class _ResizedSource:
    data: ImageDataset
    preprocessing: InputTransform

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (N, 3, S, S) uint8, the images at `rows` in that order."""
        pixels, size = self.data.source.pixels(rows), self.preprocessing.image_size
        if pixels.ndim != 4:
            return pixels  # features of a frozen backbone
        if self.data.aspects is not None:
            return self.preprocessing.fit_stored(pixels, self.data.aspects[rows].tolist())
        return pixels if size is None else resize_square(pixels, size)
