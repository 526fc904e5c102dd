"""The data of a training: a training set, a validation set and the preprocessing of both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.inputs.batches import ImageDataset
from trialrun.images.decoding.transforms import TransformStep


class InputTransform(Protocol):
    """Conversion of stored pixels to a network's inputs; `images.Preprocessing` implements it."""

    @property
    def image_size(self) -> int | None:
        """Height and width of the inputs in pixels; None keeps the images' own sizes."""
        ...

    def normalised(self, pixels: Tensor) -> Tensor:
        """Convert (N, 3, S, S) uint8 to float32."""
        ...

    def fit_stored(self, pixels: Tensor, aspects: Sequence[float]) -> Tensor:
        """Fit squashed (N, 3, P, P) uint8 images as inference fits them, to (N, 3, S, S)."""
        ...


class FeatureStore(Protocol):
    """Features of a backbone and the images of both sets, kept for other runs by `runs`."""

    def load_or_compute(
        self, how: str, compute: Callable[[], NDArray[np.float32] | None]
    ) -> NDArray[np.float32] | None:
        """Return the (N, F) float32 features of the training images, then the validation images.

        `how` says how they are computed. `compute` is called if they are not kept; if it returns
        None, so does this.
        """
        ...

    def load_or_fit(
        self, how: str, fit: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the (C, F) weights and (C,) biases of a last layer that is fitted to features.

        `how` says how features and layer are computed. `fit` is called unless the layer is kept.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Both sets, the number of classes and the preprocessing.

    `train_steps` are transforms of training images that replace the `augment` setting. `features`
    keeps the features of a frozen backbone; None computes them for this training alone.
    """

    train: ImageDataset
    valid: ImageDataset
    num_classes: int
    preprocessing: InputTransform
    train_steps: tuple[TransformStep, ...] = ()
    features: FeatureStore | None = None
