"""What is to be learned: two labelled sets and what is done to every image."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trialrun.engine.inputs.batches import ImageDataset
from trialrun.images.decoding.transforms import TransformStep


class InputTransform(Protocol):
    """How stored pixels become a network's inputs; `images.Preprocessing` is one."""

    @property
    def image_size(self) -> int | None:
        """Height and width of a network's inputs, None for as they are."""
        ...

    def normalised(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to float32."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Both sets, the number of classes, and how their pixels become inputs.

    `train_steps` are done to training images alone, in place of what `augment` says.
    """

    train: ImageDataset
    valid: ImageDataset
    num_classes: int
    preprocessing: InputTransform
    train_steps: tuple[TransformStep, ...] = ()
