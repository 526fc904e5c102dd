"""The image decoder: file contents to 8-bit RGB pixels, for scanning, training, scoring, serving.

JPEG is decoded by torchvision's libjpeg-turbo, and large photos at a fraction of their size by
Pillow's. Other formats and CMYK JPEG are decoded by Pillow, DICOM by pydicom. Images are rotated by
their orientation, values of more than 8 bits are scaled to 8, transparency is composited on white,
and an animation is read as its first frame. Tensor letters: H and W pixels.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from trialrun.errors import InvalidParameterError, summarize_error
from trialrun.images.decoding.dicom import is_dicom, read_dicom_image
from trialrun.images.decoding.gray_values import GrayValues, ValueRange, measure_values
from trialrun.images.decoding.header import (
    OUT_OF_MEMORY_REASON,
    TransientDecodeError,
    UndecodableError,
    open_lazily,
    read_plain_jpeg,
    report_missing_package,
)
from trialrun.images.decoding.jpeg import MIRRORED_X, MIRRORED_Y, SWAPPED, PlainJpeg
from trialrun.images.decoding.pillow_pixels import (
    check_png,
    convert_deep_colors,
    convert_to_pixels,
    find_tone,
    has_deep_colors,
    measure_image,
)

# torchvision announces once per process that its decoders move to torchcodec: nothing to act on.
warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")

DECODER_VERSION = 3  # part of the cache key: raise it when any image would decode differently

_CPP_LOCATION = re.compile(r"^.*\.cpp:\d+, ")  # prefix of torchvision's error messages
_TORCH_OUT_OF_MEMORY = "can't allocate memory"  # torch raises a plain RuntimeError for it

ReductionRule = Callable[[int, int], int]


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """(3, h, w) uint8 pixels of an image of `width` by `height`, each `reduction` pixels wide.

    The first of them begin `left` and `top` pixels of the full size before the image, whose sides
    need not be multiples of `reduction`.
    """

    pixels: Tensor
    width: int
    height: int
    reduction: int = 1
    left: int = 0
    top: int = 0


def wrap_pixels(pixels: Tensor) -> DecodedFile:
    """Return (3, H, W) pixels as an image at its full size."""
    return DecodedFile(pixels, pixels.shape[-1], pixels.shape[-2])


def _keep_size(_width: int, _height: int) -> int:
    """Return 1: no reduction."""
    return 1


def decode_image(data: bytes, value_range: ValueRange | None = None) -> Tensor:
    """Decode an image file's content to (3, H, W) uint8.

    Of values of more than 8 bits, the ends of `value_range` become 0 and 255; None means the range
    of the file's bits, or of its window if it has one.

    Raises:
        UndecodableError: The image cannot be used; the message gives the reason.
        TransientDecodeError: Not enough free memory, or the package for this format is missing.
    """
    return decode_reduced(data, _keep_size, value_range).pixels


def decode_reduced(
    data: bytes, choose_reduction: ReductionRule, value_range: ValueRange | None = None
) -> DecodedFile:
    """Decode as `decode_image`, but a JPEG at a fraction of its size.

    `choose_reduction` takes width and height, and returns the divisor: 1, 2, 4 or 8.

    Raises:
        UndecodableError: As `decode_image`.
        TransientDecodeError: As `decode_image`.
    """
    with _translate_errors():
        if (jpeg := read_plain_jpeg(data)) is not None:
            return _decode_jpeg(data, jpeg, choose_reduction(*jpeg.shown_size))
        if is_dicom(data):
            return wrap_pixels(_decode_dicom(data, value_range))
        image = open_lazily(data)
        if image.format == "PNG":
            check_png(data)
        if value_range is not None and has_deep_colors(image):
            return wrap_pixels(convert_deep_colors(image, data, value_range))
        return wrap_pixels(convert_to_pixels(image, find_tone(image), value_range))


def decode_pillow_image(image: Image.Image, value_range: ValueRange | None = None) -> Tensor:
    """Decode an opened Pillow image to (3, H, W) uint8, as `decode_image` does for a file.

    Raises:
        UndecodableError: The image cannot be used; the message gives the reason.
    """
    with _translate_errors():  # Pillow may read the file only now
        copy = image.copy()  # the caller's image is not changed
        return convert_to_pixels(copy, find_tone(image), value_range)


def read_gray_values(data: bytes) -> GrayValues | None:
    """Return the range of a file's values; None for a file with values of 8 bits.

    Raises:
        UndecodableError: As `decode_image`.
        TransientDecodeError: As `decode_image`.
    """
    with _translate_errors():
        if read_plain_jpeg(data) is not None:
            return None
        if not is_dicom(data):
            return measure_image(open_lazily(data))
        image = read_dicom_image(data)
        return None if image.tone is None else measure_values(image.pixels, image.tone)


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except UndecodableError:
        raise
    except InvalidParameterError as error:
        raise report_missing_package(error) from None
    except MemoryError:
        raise TransientDecodeError(OUT_OF_MEMORY_REASON) from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, RuntimeError, ...
        if _TORCH_OUT_OF_MEMORY in str(error):
            raise TransientDecodeError(OUT_OF_MEMORY_REASON) from None
        message = _CPP_LOCATION.sub("", summarize_error(error))
        raise UndecodableError(f"damaged: {message}") from error


def _decode_jpeg(data: bytes, jpeg: PlainJpeg, reduction: int) -> DecodedFile:
    """Decode and rotate a JPEG; libjpeg-turbo reduces it while it decodes."""
    if reduction == 1:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB)  # reads only some orientations
    else:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        image.draft("RGB", (jpeg.width // reduction, jpeg.height // reduction))
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    pixels, (width, height) = _rotate(pixels, jpeg.orientation), jpeg.shown_size
    return DecodedFile(
        pixels,
        width,
        height,
        reduction,
        left=pixels.shape[-1] * reduction - width if jpeg.orientation in MIRRORED_X else 0,
        top=pixels.shape[-2] * reduction - height if jpeg.orientation in MIRRORED_Y else 0,
    )


def _rotate(pixels: Tensor, orientation: int) -> Tensor:
    """Rotate stored pixels (3, H, W) as Exif's orientation says."""
    if orientation in SWAPPED:
        pixels = pixels.transpose(1, 2)
    mirrored = [2] * (orientation in MIRRORED_X) + [1] * (orientation in MIRRORED_Y)
    return pixels.flip(mirrored) if mirrored else pixels


def _decode_dicom(data: bytes, value_range: ValueRange | None) -> Tensor:
    image = read_dicom_image(data)
    pixels = image.pixels
    if image.tone is not None:
        grays = image.tone.convert(pixels, value_range)
        pixels = np.repeat(grays[:, :, None], 3, axis=2)
    return torch.from_numpy(pixels).permute(2, 0, 1)
