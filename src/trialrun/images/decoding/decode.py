"""The one decoder: bytes in, 8-bit RGB out, for scanning, training, scoring and serving alike.

JPEG goes through torchvision's libjpeg-turbo, all else (and CMYK) through Pillow. Turned upright
by EXIF, 16 bits scaled to 8, transparency laid on white, the first frame of an animation.
Tensor letters: H and W pixels.
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
    TOO_LARGE_FOR_MEMORY,
    TransientDecodeError,
    UndecodableError,
    open_lazily,
    read_plain_jpeg_size,
)

# torchvision says once a process that its decoders will move to torchcodec; users cannot act on it.
warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")

DECODER_VERSION = 2  # part of every pack's key: raise it when any image would decode differently

_PLACE_IN_SOURCE = re.compile(r"^.*\.cpp:\d+, ")  # of torchvision, which names it first
_TORCH_OUT_OF_MEMORY = "can't allocate memory"  # in what is else an everyday RuntimeError
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_SIXTEEN_BITS_AS_I = frozenset({"PPM", "PNG"})  # Pillow's mode of 32 bits, of which these use 16
_STRIP_PIXELS = 1 << 22
_UINT16_TO_UINT8 = 257  # 65535 / 255


def decode_image(data: bytes) -> Tensor:
    """An image's pixels, (3, H, W) uint8.

    Raises:
        UndecodableError: With the reason in a few words.
        PassingError: Too large for the memory there is now.
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
        raise TransientDecodeError(TOO_LARGE_FOR_MEMORY) from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, RuntimeError, ...
        if _TORCH_OUT_OF_MEMORY in str(error):
            raise TransientDecodeError(TOO_LARGE_FOR_MEMORY) from None
        said = _PLACE_IN_SOURCE.sub("", summarize_error(error))
        raise UndecodableError(f"damaged: {said}") from error


def decode_pillow_image(image: Image.Image) -> Tensor:
    """The pixels of an image that Pillow has opened, made RGB as `decode` makes them.

    Raises:
        UndecodableError: With the reason in a few words.
    """
    try:
        turned = ImageOps.exif_transpose(image)  # a copy: the caller's image stays as it is
        turned.format = image.format
        return _decode_with_pillow(turned)
    except UndecodableError:
        raise
    except Exception as error:  # as in `decode`: Pillow may read the file only now
        raise UndecodableError(f"damaged: {summarize_error(error)}") from error


def _decode_jpeg(data: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return pixels


def _check_png(data: bytes) -> None:
    """Hold a PNG to its own checksums, which Pillow does not do for the pixels."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        end = place + 8 + size
        kind = data[place + 4 : place + 8]
        if end + 4 > len(data):
            raise UndecodableError("damaged: truncated PNG")
        if zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise UndecodableError(f"damaged: checksum of the PNG's {kind!r} chunk")
        if kind == b"IEND":
            return
        place = end + 4
    raise UndecodableError("damaged: truncated PNG")


def _decode_with_pillow(image: Image.Image) -> Tensor:
    """Colours side by side in memory, as libjpeg-turbo leaves them too."""
    if image.mode == "I" and image.format not in _SIXTEEN_BITS_AS_I:
        raise UndecodableError("32-bit pixels, whose white is not known")
    ImageOps.exif_transpose(image, in_place=True)
    return torch.from_numpy(_rgb_pixels(image)).permute(2, 0, 1)


def _rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3); made in strips of rows, as what lies between may take five times the memory."""
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
        raise UndecodableError("floating-point pixels, whose white is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _convert_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise UndecodableError("32-bit pixels, whose white is not known")
    gray = ((values + _UINT16_TO_UINT8 // 2) // _UINT16_TO_UINT8).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")
