"""Pictures of images in rows, with lines of text above each.

Pillow draws them in a tenth of the time that matplotlib needs for as many axes.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

TEXT_COLOR = "#222222"
_ELLIPSIS = "\u2026"


@dataclass(frozen=True, slots=True)
class Tile:
    """An image and the lines of text above it."""

    image: Image.Image
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class TileLayout:
    """The number of columns, and sizes in pixels: of images, gaps, letters and lines of text."""

    columns: int
    side: int
    gap: int = 12
    font_size: int = 13
    line: int = 17


def arrange_tiles(tiles: Sequence[Tile], layout: TileLayout) -> Image.Image:
    """Return one picture of all tiles; each image keeps its proportions.

    Raises:
        ValueError: `tiles` is empty.
    """
    if not tiles:
        raise ValueError("no images to draw")
    columns = min(layout.columns, len(tiles))
    text_height = layout.line * max(len(tile.lines) for tile in tiles)
    width, height = layout.side + layout.gap, layout.side + text_height + layout.gap
    rows = math.ceil(len(tiles) / columns)
    canvas = Image.new("RGB", (width * columns, height * rows), "white")
    pen, font = ImageDraw.Draw(canvas), load_font(layout.font_size)
    for number, tile in enumerate(tiles):
        left, top = number % columns * width, number // columns * height
        for line, text in enumerate(tile.lines):
            shown = shorten_to_width(text, layout.side, font)
            pen.text((left, top + line * layout.line), shown, fill=TEXT_COLOR, font=font)
        canvas.paste(_scale_image(tile.image, layout.side), (left, top + text_height))
    return canvas


def encode_png(picture: Image.Image) -> bytes:
    """Return the picture as a PNG file."""
    content = io.BytesIO()
    picture.save(content, format="png")
    return content.getvalue()


def _scale_image(image: Image.Image, side: int) -> Image.Image:
    """Return the image with a longer side of `side` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR)


def shorten_to_width(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Return the text on one line, shortened to a width in pixels."""
    text = " ".join(text[:width].split())  # a letter is wider than a pixel
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + _ELLIPSIS) > width:
        text = text[:-1]
    return text + _ELLIPSIS


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which is there on every machine."""
    from matplotlib import get_data_path

    path = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
