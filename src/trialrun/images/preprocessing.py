"""From an image's bytes to a network's input: the steps that training and inference share.

Tensor letters: N images, H and W pixels, S the image size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from trialrun.images.decoder import decode

# Channel statistics of ImageNet as torchvision's weights expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to every image: its central square resized to `image_size`, then normalised.

    With `image_size` None images are taken as they are, which Azure's models want.
    """

    image_size: int | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def pixels(self, data: bytes) -> Tensor:
        """(3, S, S) uint8 out of an image file's bytes.

        Raises:
            UndecodableError: With the reason in a few words.
        """
        image = decode(data)
        return image if self.image_size is None else central_square(image, self.image_size)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to float32 of about zero mean and unit variance."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        # One multiplication and one addition: (x / 255 - mean) / std.
        return pixels.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`.

        Raises:
            ValueError: A value is missing, of another type or out of range.
        """
        size = values.get("image_size")
        if size is not None and (not isinstance(size, int) or not 1 <= size <= 4096):
            raise ValueError(f"image_size {size!r} is no size in pixels")
        return cls(size, _three(values.get("mean")), _three(values.get("std")))


def _three(values: object) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{values!r} are not three channel values")
    return tuple(float(value) for value in values)


def central_square(image: Tensor, size: int) -> Tensor:
    """The largest central square of a (3, H, W) uint8 image, resized to (3, size, size).

    The square is cut before the resizing, so that a 30,000 by 1 image costs no more than another.
    """
    height, width = image.shape[-2:]
    side = min(height, width)
    if (height, width) != (side, side):
        top, left = (height - side) // 2, (width - side) // 2
        image = image[:, top : top + side, left : left + side]
    if side == size:
        return image.contiguous()
    resized: Tensor = functional.resize(image, [size, size], antialias=True)
    return resized
