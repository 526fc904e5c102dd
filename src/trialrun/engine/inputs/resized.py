"""Training images at the size of the network's inputs, without augmentation."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.inputs.augment import resize_square
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.data import InputTransform


def resize_dataset(
    data: ImageDataset, preprocessing: InputTransform, size: int | None = None
) -> ImageDataset:
    """Return the images of `data` as inference sees them, made smaller to `size` pixels if set."""
    return replace(data, source=_ResizedSource(data, preprocessing, size), aspects=None)


@dataclass(frozen=True, slots=True)
class _ResizedSource:
    data: ImageDataset
    preprocessing: InputTransform
    size: int | None

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (N, 3, S, S) uint8, the images at `rows` in that order."""
        pixels = self.data.source.pixels(rows)
        if pixels.ndim != 4:
            return pixels  # features of a frozen backbone
        fitted = self._fit(pixels, rows)
        return fitted if self.size is None else resize_square(fitted, self.size)

    def _fit(self, pixels: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Fit stored pixels to the full size."""
        size = self.preprocessing.image_size
        if self.data.aspects is not None:
            return self.preprocessing.fit_stored(pixels, self.data.aspects[rows].tolist())
        return pixels if size is None else resize_square(pixels, size)
