"""Preprocessing: the steps from an image file to a network's input, shared by all uses.

Tensor letters: N images, H and W pixels, S the image size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from trialrun.images.decoding.decode import DecodedFile, decode_reduced, wrap_pixels
from trialrun.images.decoding.fitting import (
    CROP,
    FITS,
    fit_image,
    fit_squashed,
    place_image,
)
from trialrun.images.decoding.gray_values import ValueRange
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

INTERPOLATIONS = ("bilinear", "bicubic")

_JSON_NAMES = frozenset(
    "image_size mean std steps crop_fraction interpolation fit value_range".split()
)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Scale values to 8 bits, apply `steps`, fit the image into a square, then normalize.

    `steps` are deterministic transforms. The square has `image_size` pixels per side; `fit` and
    `crop_fraction` are as in `place_image`. With `image_size` None, images are not fitted; Azure's
    models expect that. `value_range` is as in `decode_image`.
    """

    image_size: int | None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    steps: tuple[TransformStep, ...] = ()
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    fit: str = CROP
    value_range: ValueRange | None = None

    @property
    def fill(self) -> tuple[int, ...]:
        """The color of padding: the mean, which becomes 0 in the network's input."""
        return tuple(min(max(round(255 * value), 0), 255) for value in self.mean)

    def decode(self, data: bytes) -> Tensor:
        """Decode an image file's content and prepare it, to (3, S, S) uint8.

        Raises:
            UndecodableError: The image cannot be used; the message gives the reason.
        """
        return self.decode_with_aspect(data)[0]

    def decode_with_aspect(self, data: bytes) -> tuple[Tensor, float]:
        """As `decode`, and the aspect ratio (width by height) of the image before it is fitted.

        Raises:
            UndecodableError: As `decode`.
        """
        return self._prepare(decode_reduced(data, self._choose_reduction, self.value_range))

    def prepare(self, image: Tensor) -> Tensor:
        """Apply the steps and fit the image: (3, H, W) uint8 to (3, S, S) uint8.

        Raises:
            UndecodableError: A step would make the image too large.
        """
        return self._prepare(wrap_pixels(image))[0]

    def fit_stored(self, pixels: Tensor, aspects: Sequence[float]) -> Tensor:
        """Fit (N, 3, P, P) uint8 images that are stored squashed: to (N, 3, S, S).

        `aspects` are the aspect ratios of the images themselves.
        """
        size = self.image_size or pixels.shape[-1]
        fitted = [
            fit_squashed(image, aspect, size, self.fit, self.crop_fraction, self.fill)
            for image, aspect in zip(pixels, aspects, strict=True)
        ]
        return torch.stack(fitted)

    def _choose_reduction(self, width: int, height: int) -> int:
        """Return the divisor of a JPEG's size that leaves as many pixels as are needed."""
        if self.image_size is None or self.steps:
            return 1
        size, fraction = self.image_size, self.crop_fraction
        return place_image(width, height, size, self.fit, fraction).choose_reduction()

    def _prepare(self, image: DecodedFile) -> tuple[Tensor, float]:
        for step in self.steps:
            image = wrap_pixels(_apply_step(step, image.pixels))
        width, height, size = image.width, image.height, self.image_size
        if size is None:
            return image.pixels, width / height
        place = place_image(width, height, size, self.fit, self.crop_fraction)
        return fit_image(image, place, size, self.fill, self.interpolation), width / height

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalize (N, 3, S, S) uint8 to float32 of about zero mean and unit variance."""
        factor, shift = _channel_constants(self.mean, self.std, pixels.device)
        if pixels.device.type == "cpu" and pixels.is_contiguous(memory_format=torch.channels_last):
            return _normalise_rows(pixels, factor, shift)
        return pixels.to(torch.float32).mul_(factor).sub_(shift)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for `model.json`; those that are the defaults are left out.

        Versions that do not know a key refuse the model.
        """
        values: dict[str, Any] = {
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self.steps:
            values["steps"] = [step.to_json() for step in self.steps]
        if self.crop_fraction != 1:
            values["crop_fraction"] = self.crop_fraction
        if self.interpolation != "bilinear":
            values["interpolation"] = self.interpolation
        if self.fit != CROP:
            values["fit"] = self.fit
        if self.value_range is not None:
            values["value_range"] = list(self.value_range)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Return the preprocessing that `to_json` describes.

        Raises:
            ValueError: A value is missing, unknown, of another type or out of range.
        """
        if unknown := set(values) - _JSON_NAMES:
            key = min(map(str, unknown))
            raise ValueError(f"unknown key {key!r}, perhaps of a newer version of trialrun")
        size = values.get("image_size")
        if size is not None and (type(size) is not int or not 1 <= size <= MAX_SIDE):
            raise ValueError(f"image_size {size!r} is not a size from 1 to {MAX_SIDE} pixels")
        steps = parse_steps(values.get("steps", []))
        if random_step := next((step for step in steps if not step.is_fixed), None):
            raise ValueError(f"{random_step.name} is random and not allowed for inference")
        return cls(
            size,
            _check_triple(values.get("mean")),
            _check_deviations(values.get("std")),
            steps,
            _check_fraction(values.get("crop_fraction", 1.0)),
            _check_choice("interpolation", values.get("interpolation", "bilinear"), INTERPOLATIONS),
            _check_choice("fit", values.get("fit", CROP), FITS),
            _check_value_range(values.get("value_range")),
        )


@cache
def _channel_constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (1, 3, 1, 1) factor and shift, so that (x / 255 - mean) / std is x * factor - shift.

    Cached because every copy to a GPU would wait for the GPU's queued work.
    """
    with torch.inference_mode(False):  # the cached tensors are used in training as well
        means, deviations = (
            torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std)
        )
        return (1 / (255 * deviations)).to(device), (means / deviations).to(device)


def _normalise_rows(pixels: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """Normalize channels-last pixels on a CPU: whole rows of pixels, to the same bits.

    Broadcasting over three adjacent channels takes seven times as long.
    """
    num_images, num_channels, height, width = pixels.shape
    rows = pixels.permute(0, 2, 3, 1).reshape(num_images, height, width * num_channels)
    factors, shifts = (values.view(-1).repeat(width) for values in (factor, shift))
    normalised = rows.to(torch.float32).mul_(factors).sub_(shifts)
    return normalised.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def _check_triple(values: object) -> tuple[float, ...]:
    if not isinstance(values, Sequence) or len(values) != 3:
        raise ValueError(f"{values!r} is not a list of three channel values")
    try:
        channels = tuple(float(value) for value in values)
    except (TypeError, OverflowError):
        raise ValueError(f"{values!r} is not a list of three numbers") from None
    if not all(map(math.isfinite, channels)):
        raise ValueError(f"{values!r} is not a list of three numbers")
    return channels


def _check_deviations(values: object) -> tuple[float, ...]:
    channels = _check_triple(values)
    if min(channels) <= 0:
        raise ValueError(f"std {values!r} is not above 0")
    return channels


def _check_fraction(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"crop_fraction {value!r} is not a number above 0 and up to 1")
    return float(value)


def _check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")
    return str(value)


def _check_value_range(values: object) -> ValueRange | None:
    if values is None:
        return None
    if isinstance(values, list | tuple) and [type(value) for value in values] == [int, int]:
        low, high = values
        if low < high:
            return low, high
    raise ValueError(f"value_range {values!r} is not a pair of integers, the lower one first")


def _apply_step(step: TransformStep, image: Tensor) -> Tensor:
    """Apply a fixed step to a (3, H, W) uint8 image.

    Raises:
        UndecodableError: The result would be too large. For example, resizing a shorter side of
            one pixel to 256 makes the longer side 256 times as long.
    """
    result: Tensor
    if step.name == "Pad":
        width, height = compute_padded_size(step, image.shape[-1], image.shape[-2])
        if width * height > MAX_PIXELS:
            raise UndecodableError(f"too large to be padded: {width} by {height} pixels")
        padding, fill = step.arguments["padding"], step.arguments.get("fill")
        result = functional.pad(image, padding, fill=fill or 0)
        return result
    size = step.arguments["size"]
    sides = [size] if isinstance(size, int) else list(size)
    if step.name == "CenterCrop":
        result = functional.center_crop(image, sides)
        return result
    short, long = sorted(image.shape[-2:])
    if len(sides) == 1 and sides[0] * sides[0] * long > MAX_PIXELS * short:
        raise UndecodableError(f"too long to be resized: {long} by {short} pixels")
    result = functional.resize(image, sides, antialias=True)
    return result
