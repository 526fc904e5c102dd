"""The one decoder: bytes in, 8-bit RGB out, for scanning, training, scoring and serving alike.

JPEG goes through torchvision's libjpeg-turbo, all else (and CMYK) through Pillow. Turned upright
by EXIF, 16 bits scaled to 8, transparency laid on white, the first frame of an animation.
Tensor letters: H and W pixels.
"""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from trialrun.images.header import UndecodableError, open_lazily

DECODER_VERSION = 1  # part of every pack's key: raise it when any image would decode differently

_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_UINT16_TO_UINT8 = 257  # 65535 / 255


def decode(data: bytes) -> Tensor:
    """An image's pixels, (3, H, W) uint8.

    Raises:
        UndecodableError: With the reason in a few words.
    """
    image = open_lazily(data)
    try:
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            return _decode_jpeg(data)
        return _decode_with_pillow(image)
    except UndecodableError:
        raise
    except MemoryError:
        raise UndecodableError("too large for the memory there is") from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, RuntimeError, ...
        raise UndecodableError(f"damaged: {_first_line(error)}") from error


def _decode_jpeg(data: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pixels: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return pixels


def _decode_with_pillow(image: Image.Image) -> Tensor:
    upright = ImageOps.exif_transpose(image)
    pixels = np.array(_as_rgb(upright))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "I":
        return _sixteen_bit_as_rgb(image)
    if image.mode == "F":
        raise UndecodableError("floating-point pixels, whose white is not known")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_as_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UndecodableError("32-bit pixels, whose white is not known")
    gray = ((values + _UINT16_TO_UINT8 // 2) // _UINT16_TO_UINT8).astype(np.uint8)
    return Image.fromarray(gray).convert("RGB")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
