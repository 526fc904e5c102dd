"""From an image's bytes to a network's input: the steps that training and inference share.

Tensor letters: N images, H and W pixels, S the image size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional

from trialrun.images.decoding.decode import decode_image
from trialrun.images.decoding.header import MAX_PIXELS, UndecodableError
from trialrun.images.decoding.transforms import (
    MAX_SIDE,
    TransformStep,
    compute_padded_size,
    parse_steps,
)

# Channel statistics of ImageNet as torchvision's weights expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_JSON_NAMES = frozenset({"image_size", "mean", "std", "steps"})


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to every image: its central square resized to `image_size`, then normalised.

    With `image_size` None images are taken as they are, which Azure's models want. `steps`, where
    there are some, come first: transforms that do the same every time.
    """

    image_size: int | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    steps: tuple[TransformStep, ...] = ()

    def pixels(self, data: bytes) -> Tensor:
        """(3, S, S) uint8 out of an image file's bytes.

        Raises:
            UndecodableError: With the reason in a few words.
        """
        return self.prepare(decode_image(data))

    def prepare(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 pixels to (3, S, S) uint8.

        Raises:
            UndecodableError: A step would make the image too large.
        """
        for step in self.steps:
            image = _apply_step(step, image)
        return image if self.image_size is None else _crop_central_square(image, self.image_size)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to float32 of about zero mean and unit variance."""
        factor, shift = _channel_constants(self.mean, self.std, pixels.device)
        return pixels.to(torch.float32).mul_(factor).sub_(shift)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`; `steps` where there are some."""
        values: dict[str, Any] = {
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self.steps:
            values["steps"] = [step.to_json() for step in self.steps]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`.

        Raises:
            ValueError: A value is missing, unknown, of another type or out of range.
        """
        if unknown := set(values) - _JSON_NAMES:
            raise ValueError(f"{min(map(str, unknown))!r} is not known")
        size = values.get("image_size")
        if size is not None and (type(size) is not int or not 1 <= size <= MAX_SIDE):
            raise ValueError(f"image_size {size!r} is no size in pixels")
        steps = parse_steps(values.get("steps", []))
        if stray := next((step for step in steps if not step.is_fixed), None):
            raise ValueError(f"{stray.name} draws, and is not for inference")
        return cls(
            size, _check_triple(values.get("mean")), _check_deviations(values.get("std")), steps
        )


@cache
def _channel_constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Factor and shift, (1, 3, 1, 1), with which (x / 255 - mean) / std is x * factor - shift.

    CacheEntry, since each copy to a GPU would wait for all that it still computes.
    """
    with torch.inference_mode(False):  # what is made here serves training as well
        means, deviations = (
            torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std)
        )
        return (1 / (255 * deviations)).to(device), (means / deviations).to(device)


def _check_triple(values: object) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{values!r} are not three channel values")
    try:
        channels = tuple(float(value) for value in values)
    except (TypeError, OverflowError):
        raise ValueError(f"{values!r} are not three numbers") from None
    if not all(map(math.isfinite, channels)):
        raise ValueError(f"{values!r} are not three numbers")
    return channels


def _check_deviations(values: object) -> tuple[float, ...]:
    channels = _check_triple(values)
    if min(channels) <= 0:
        raise ValueError(f"std {values!r} is not above 0")
    return channels


def _crop_central_square(image: Tensor, size: int) -> Tensor:
    """The largest central square of a (3, H, W) uint8 image, resized to (3, size, size).

    The square is cut before the resizing, so that a 30,000 by 1 image costs no more than another.
    """
    height, width = image.shape[-2:]
    side = min(height, width)
    if height == width == size:
        return image
    top, left = (height - side) // 2, (width - side) // 2
    # In numpy: every call of torch, be it a mere view, lets go of Python's lock and waits for it
    # again, which costs decoding threads a fifth of their time. Colours side by side in memory:
    # torch then resizes in two thirds of the time.
    square = image.numpy()[:, top : top + side, left : left + side].transpose(1, 2, 0)
    square = np.ascontiguousarray(square).reshape(1, side, side, 3)
    resized = torch.from_numpy(square).permute(0, 3, 1, 2)
    if side != size:
        resized = F.interpolate(resized, size=(size, size), mode="bilinear", antialias=True)
    return resized[0]


def _apply_step(step: TransformStep, image: Tensor) -> Tensor:
    """A (3, H, W) uint8 image after a fixed step.

    Raises:
        UndecodableError: It would become too large: a shorter side of one pixel, resized to 256,
            makes the longer one 256 times as long.
    """
    changed: Tensor
    if step.name == "Pad":
        width, height = compute_padded_size(step, image.shape[-1], image.shape[-2])
        if width * height > MAX_PIXELS:
            raise UndecodableError(f"too large to be padded: {width} by {height} pixels")
        padding, fill = step.arguments["padding"], step.arguments.get("fill")
        changed = functional.pad(image, padding, fill=fill or 0)
        return changed
    size = step.arguments["size"]
    sides = [size] if isinstance(size, int) else list(size)
    if step.name == "CenterCrop":
        changed = functional.center_crop(image, sides)
        return changed
    short, long = sorted(image.shape[-2:])
    if len(sides) == 1 and sides[0] * sides[0] * long > MAX_PIXELS * short:
        raise UndecodableError(f"too long to be resized: {long} by {short} pixels")
    changed = functional.resize(image, sides, antialias=True)
    return changed
