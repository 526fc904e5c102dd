"""Fitting of an image into a square: crop, squash or pad.

Tensor letters: H and W pixels, S the side of the square.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from trialrun.images.decoding.decode import DecodedFile, wrap_pixels

CROP, SQUASH, PAD = FITS = ("crop", "squash", "pad")

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_REDUCTIONS = (8, 4, 2)  # of libjpeg-turbo
# A reduced image has at least this many pixels per output pixel and side. Pixels then differ from
# those of the full decode by 0.2 to 1.9 of 255 on average (benchmarks/images.py).
_OVERSAMPLING = 1.25
_UNITS = 1 << 16  # the height of an image of which only the aspect ratio is known


@dataclass(frozen=True, slots=True)
class Placement:
    """A box of the image, in pixels, and the rectangle of the square that it is resized to."""

    left: int
    top: int
    width: int
    height: int
    out_left: int
    out_top: int
    out_width: int
    out_height: int

    def choose_reduction(self) -> int:
        """Return the largest divisor of the image's size that leaves enough pixels."""
        factor = min(self.width / self.out_width, self.height / self.out_height)
        return next((n for n in _REDUCTIONS if factor >= n * _OVERSAMPLING), 1)


def place_image(width: int, height: int, size: int, fit: str, fraction: float) -> Placement:
    """Return which part of an image goes where in a square of `size` pixels.

    `crop` takes the central square with `fraction` of the shorter side. `squash` takes
    that fraction of both sides. `pad` takes the central square with `fraction` of the
    longer side, as far as the image reaches.
    """
    if fit == SQUASH:
        box_width, box_height = (max(round(side * fraction), 1) for side in (width, height))
        out_width = out_height = size
    else:
        longest = max(width, height) if fit == PAD else min(width, height)
        side = max(round(longest * fraction), 1)
        box_width, box_height = min(side, width), min(side, height)
        out_width, out_height = (max(round(n * size / side), 1) for n in (box_width, box_height))
    return Placement(
        (width - box_width) // 2,
        (height - box_height) // 2,
        box_width,
        box_height,
        (size - out_width) // 2,
        (size - out_height) // 2,
        out_width,
        out_height,
    )


def fit_image(
    image: DecodedFile, place: Placement, size: int, fill: Sequence[int], interpolation: str
) -> Tensor:
    """Return the (3, S, S) uint8 square; pixels outside the image get the color `fill`."""
    resized = _resize_box(image, place, interpolation)
    if resized.shape[-2:] == (size, size):
        return resized
    square = np.empty((size, size, 3), dtype=np.uint8)
    square[:] = fill
    rows = slice(place.out_top, place.out_top + place.out_height)
    columns = slice(place.out_left, place.out_left + place.out_width)
    square[rows, columns] = resized.numpy().transpose(1, 2, 0)
    return torch.from_numpy(square).permute(2, 0, 1)


def fit_squashed(
    pixels: Tensor, aspect: float, size: int, fit: str, fraction: float, fill: Sequence[int]
) -> Tensor:
    """Return the (3, S, S) square of an image that is stored squashed as (3, P, P) uint8."""
    stored, height = pixels.shape[-1], _UNITS
    width = max(round(_UNITS * aspect), 1)
    place = place_image(width, height, size, fit, fraction)
    scaled = replace(
        place,
        left=place.left * stored // width,
        top=place.top * stored // height,
        width=max(place.width * stored // width, 1),
        height=max(place.height * stored // height, 1),
    )
    return fit_image(wrap_pixels(pixels), scaled, size, fill, "bilinear")


def find_central_square(fit: str, aspect: float) -> tuple[float, float]:
    """Return the shares of a fitted square's width and height that show the central square."""
    narrow = min(aspect, 1 / aspect)
    if fit == SQUASH:
        return min(1 / aspect, 1.0), min(aspect, 1.0)
    return (narrow, narrow) if fit == PAD else (1.0, 1.0)


def _resize_box(image: DecodedFile, place: Placement, interpolation: str) -> Tensor:
    if image.reduction > 1:
        return _resize_reduced(image, place, interpolation)
    pixels, out_size = image.pixels, (place.out_height, place.out_width)
    if pixels.shape[-2:] == (place.height, place.width) == out_size:
        return pixels
    # In numpy: every torch call, even a view, releases and reacquires the GIL, which costs decoding
    # threads a fifth of their time. Channels last in memory: torch then resizes in two thirds of
    # the time. Cropping before resizing keeps the cost of a 30,000 by 1 image low.
    right, bottom = place.left + place.width, place.top + place.height
    box = pixels.numpy()[:, place.top : bottom, place.left : right].transpose(1, 2, 0)
    contiguous = np.ascontiguousarray(box).reshape(1, place.height, place.width, 3)
    resized = torch.from_numpy(contiguous).permute(0, 3, 1, 2)
    if (place.height, place.width) != out_size:
        resized = F.interpolate(resized, size=out_size, mode=interpolation, antialias=True)
    return resized[0]


def _resize_reduced(image: DecodedFile, place: Placement, interpolation: str) -> Tensor:
    """Resize with Pillow, which filters as torch does: the box's corners are between two pixels."""
    left, top = place.left + image.left, place.top + image.top
    corners = (left, top, left + place.width, top + place.height)
    box = tuple(corner / image.reduction for corner in corners)
    pixels: NDArray[np.uint8] = image.pixels.permute(1, 2, 0).numpy()
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (place.out_width, place.out_height),
        _RESAMPLING[interpolation],
        box=box,  # type: ignore[arg-type]
    )
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
