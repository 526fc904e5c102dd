"""The data of a training: a training set, a validation set and the preprocessing of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Both sets, the number of classes and the preprocessing.

    `train_steps` are transforms of training images that replace the `augment` setting.
    """

    train: ImageDataset
    valid: ImageDataset
    num_classes: int
    preprocessing: InputTransform
    train_steps: tuple[TransformStep, ...] = ()
