"""Pixels of an image that Pillow has opened: colors, gray values of 16 bits, transparency."""

import struct
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

from trialrun.images.decoding.gray_values import GrayValues, Tone, ValueRange, measure_values
from trialrun.images.decoding.header import UndecodableError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_SIXTEEN_BIT_FORMATS = frozenset({"PPM", "PNG"})  # Pillow opens their 16 bits as 32-bit mode "I"
_DEEP_COLOR_MODES = frozenset({"RGB", "RGBA", "LA"})
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0
_STRIP_PIXELS = 1 << 22
_BYTE_STEP = 257  # 65535 / 255


def check_png(data: bytes) -> None:
    """Verify a PNG's checksums; Pillow does not check those of the pixel data.

    Raises:
        UndecodableError: One is wrong, or the file is truncated.
    """
    start = len(_PNG_SIGNATURE)
    while start + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        end = start + 8 + size
        kind = data[start + 4 : start + 8]
        if end + 4 > len(data):
            raise UndecodableError("damaged: truncated PNG")
        if zlib.crc32(data[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise UndecodableError(f"damaged: checksum of the PNG's {kind!r} chunk")
        if kind == b"IEND":
            return
        start = end + 4
    raise UndecodableError("damaged: truncated PNG")


def find_tone(image: Image.Image) -> Tone | None:
    """Return the tone of an image of 16-bit grays; None for other kinds of pixels.

    Pillow inverts TIFF images of 8 bits with white as zero, and not those of 16 bits.
    """
    is_gray = image.mode in _SIXTEEN_BIT_MODES
    if not is_gray and (image.mode != "I" or image.format not in _SIXTEEN_BIT_FORMATS):
        return None
    tags = getattr(image, "tag_v2", {})
    return Tone(is_inverted=tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO)


def has_deep_colors(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has colors of 16 bits, which Pillow cuts to 8."""
    tiles = getattr(image, "tile", ())  # of a file
    return image.mode in _DEEP_COLOR_MODES and any(";16" in str(tile.args) for tile in tiles)


def convert_to_pixels(
    image: Image.Image, tone: Tone | None, value_range: ValueRange | None
) -> Tensor:
    """Return (3, H, W) uint8, rotated, in channels-last memory order as libjpeg-turbo returns it.

    Raises:
        UndecodableError: The pixels are 32-bit or floating-point and `value_range` is None.
    """
    if image.mode in ("I", "F") and tone is None:
        if value_range is None:
            kind = "32-bit" if image.mode == "I" else "floating-point"
            raise UndecodableError(
                f"{kind} pixels need value_range=LOW:HIGH: their white is unknown"
            )
        tone = Tone()
    ImageOps.exif_transpose(image, in_place=True)
    return torch.from_numpy(_extract_rgb(image, tone, value_range)).permute(2, 0, 1)


def convert_deep_colors(image: Image.Image, data: bytes, value_range: ValueRange) -> Tensor:
    """Return (3, H, W) uint8 of an image with colors of 16 bits.

    Raises:
        UndecodableError: It is not a PNG, or has transparent pixels.
    """
    if image.format != "PNG" or image.mode != "RGB" or image.has_transparency_data:
        raise UndecodableError("value_range cannot be applied to its 16-bit colors")
    image.load()  # raises if the pixels are damaged, on which `decode_png` would end the process
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    values = decode_png(encoded, mode=ImageReadMode.RGB).numpy()
    pixels = Tone().convert(values, value_range).transpose(1, 2, 0)
    rotated = Image.fromarray(np.ascontiguousarray(pixels))
    rotated.info = dict(image.info)
    return convert_to_pixels(rotated, None, None)


def measure_image(image: Image.Image) -> GrayValues | None:
    """Return the range of the values of more than 8 bits; None for an image of 8 bits."""
    if has_deep_colors(image):
        values = np.asarray(image).astype(np.int32)
        return GrayValues(
            float(values.min() * _BYTE_STEP), float(values.max() * _BYTE_STEP + 256), Tone()
        )
    tone = find_tone(image)
    if tone is None and image.mode not in ("I", "F"):
        return None
    return measure_values(np.asarray(image), tone)


def _extract_rgb(
    image: Image.Image, tone: Tone | None, value_range: ValueRange | None
) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8, converted in strips: temporary copies take up to 5x the memory."""
    num_rows = max(_STRIP_PIXELS // image.width, 1)
    if num_rows >= image.height:
        return np.array(_convert_to_rgb(image, tone, value_range))
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = np.asarray(_convert_to_rgb(strip, tone, value_range))
    return pixels


def _convert_to_rgb(
    image: Image.Image, tone: Tone | None, value_range: ValueRange | None
) -> Image.Image:
    if tone is not None:
        values = np.asarray(image)
        _check_values(values, value_range)
        return Image.fromarray(tone.convert(values, value_range)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _check_values(values: NDArray[Any], value_range: ValueRange | None) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UndecodableError("floating-point pixels are NaN or infinite")
    if value_range is None and (values.min() < 0 or values.max() > Tone().high):
        raise UndecodableError("32-bit pixels need value_range=LOW:HIGH: their white is unknown")
