"""Picture of the worst mistakes of a model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trialrun.report.figures.tiles import Tile, TileLayout, arrange_tiles, encode_png

_LAYOUT = TileLayout(columns=6, side=168)
_HEAT_OPACITY = 0.45
_THUMBNAIL_SIDE = 72  # pixels


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrongly classified image.

    `pixels` are (H, W, 3) uint8. `heat` is the (H, W) share from 0 to 1 that each place has in the
    prediction; None if it is unknown.
    """

    name: str
    label: str
    predicted: str
    confidence: float
    pixels: NDArray[np.uint8]
    heat: NDArray[np.float32] | None = None


def draw_mistakes(mistakes: Sequence[Mistake], *, with_heat: bool = False) -> bytes:
    """Return a PNG of images with their predictions, confidences, labels and names.

    Raises:
        ValueError: `mistakes` is empty.
    """
    tiles = [
        Tile(_make_image(mistake, with_heat=with_heat), _caption(mistake)) for mistake in mistakes
    ]
    return encode_png(arrange_tiles(tiles, _LAYOUT))


def draw_thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Return a small PNG of an (H, W, 3) image, in its proportions."""
    image = Image.fromarray(pixels)
    scale = _THUMBNAIL_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return encode_png(image.resize(size, Image.Resampling.BILINEAR))


def _caption(mistake: Mistake) -> tuple[str, str, str]:
    confidence = "" if math.isnan(mistake.confidence) else f"{mistake.confidence:.0%} "
    return (
        confidence + mistake.predicted,
        f"labelled {mistake.label}",
        mistake.name.rpartition("/")[2],
    )


def _make_image(mistake: Mistake, *, with_heat: bool) -> Image.Image:
    image = Image.fromarray(mistake.pixels)
    if with_heat and mistake.heat is not None:
        image = Image.blend(image, Image.fromarray(_color_heat(mistake.heat)), _HEAT_OPACITY)
    return image


def _color_heat(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) from 0 to 1 to (H, W, 3) uint8."""
    from matplotlib import colormaps

    colors: NDArray[np.uint8] = colormaps["inferno"](heat, bytes=True)[..., :3]
    return colors
