"""The image decoder: file contents to 8-bit RGB pixels, for scanning, training, scoring, serving.

JPEG is decoded by torchvision's libjpeg-turbo, other formats and CMYK JPEG by Pillow. Images are
rotated by their EXIF orientation, 16-bit values are scaled to 8 bits, transparency is composited
on white, and an animation is read as its first frame. Tensor letters: H and W pixels.
"""

import re
import struct
import warnings
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from trialrun.errors import summarize_error
from trialrun.images.decoding.header import (
    OUT_OF_MEMORY_REASON,
    TransientDecodeError,
    UndecodableError,
    open_lazily,
    read_plain_jpeg_size,
)

# torchvision announces once per process that its decoders move to torchcodec: nothing to act on.
warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")

DECODER_VERSION = 2  # part of the cache key: raise it when any image would decode differently

_CPP_LOCATION = re.compile(r"^.*\.cpp:\d+, ")  # prefix of torchvision's error messages
_TORCH_OUT_OF_MEMORY = "can't allocate memory"  # torch raises a plain RuntimeError for it
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_SIXTEEN_BIT_FORMATS = frozenset({"PPM", "PNG"})  # Pillow opens their 16 bits as 32-bit mode "I"
_STRIP_PIXELS = 1 << 22
_UINT16_TO_UINT8 = 257  # 65535 / 255


def decode_image(data: bytes) -> Tensor:
    """Decode an image file's content to (3, H, W) uint8.

    Raises:
        UndecodableError: The image cannot be used; the message gives the reason.
        TransientDecodeError: Not enough free memory.
    """
    try:
        if read_plain_jpeg_size(data) is not None:
            return _decode_jpeg(data)
        image = open_lazily(data)
        if image.format == "PNG":
            _check_png(data)
        return _decode_with_pillow(image)
    except UndecodableError:
        raise
    except MemoryError:
        raise TransientDecodeError(OUT_OF_MEMORY_REASON) from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, RuntimeError, ...
        if _TORCH_OUT_OF_MEMORY in str(error):
            raise TransientDecodeError(OUT_OF_MEMORY_REASON) from None
        message = _CPP_LOCATION.sub("", summarize_error(error))
        raise UndecodableError(f"damaged: {message}") from error


def decode_pillow_image(image: Image.Image) -> Tensor:
    """Decode an opened Pillow image to (3, H, W) uint8, as `decode_image` does for a file.

    Raises:
        UndecodableError: The image cannot be used; the message gives the reason.
    """
    try:
        rotated = ImageOps.exif_transpose(image)  # a copy: the caller's image is not changed
        rotated.format = image.format
        return _decode_with_pillow(rotated)
    except UndecodableError:
        raise
    except Exception as error:  # Pillow may read the file only now, see `decode_image`
        raise UndecodableError(f"damaged: {summarize_error(error)}") from error


def _decode_jpeg(data: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return pixels


def _check_png(data: bytes) -> None:
    """Verify a PNG's checksums; Pillow does not check those of the pixel data."""
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


def _decode_with_pillow(image: Image.Image) -> Tensor:
    """Return (3, H, W) uint8 in channels-last memory order, as libjpeg-turbo does."""
    if image.mode == "I" and image.format not in _SIXTEEN_BIT_FORMATS:
        raise UndecodableError("32-bit pixels are not supported: value range unknown")
    ImageOps.exif_transpose(image, in_place=True)
    return torch.from_numpy(_extract_rgb(image)).permute(2, 0, 1)


def _extract_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8, converted in strips: temporary copies take up to 5x the memory."""
    num_rows = max(_STRIP_PIXELS // image.width, 1)
    if num_rows >= image.height:
        return np.array(_convert_to_rgb(image))
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top in range(0, image.height, num_rows):
        bottom = min(top + num_rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = np.asarray(_convert_to_rgb(strip))
    return pixels


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "I":
        return _convert_16_bit(image)
    if image.mode == "F":
        raise UndecodableError("floating-point pixels are not supported: value range unknown")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _convert_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise UndecodableError("32-bit pixels are not supported: value range unknown")
    gray = ((values + _UINT16_TO_UINT8 // 2) // _UINT16_TO_UINT8).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")
