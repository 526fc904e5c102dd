"""What an image's first bytes say of it: format, size, pixel type. Torch is not needed for it."""

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

# Pillow's own alarm level, a quarter of a gigabyte of RGB; what is larger is taken for a bomb.
MAX_PIXELS = 89_478_485

# Pillow runs Ghostscript for EPS and opens a few formats that are no pictures: neither is allowed.
_FORMATS = "JPEG PNG BMP DIB GIF WEBP TIFF PPM TGA ICO JPEG2000 AVIF PCX SGI QOI".split()
_TELLTALES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "unsupported format SVG or XML"),
    (b"<svg", "unsupported format SVG"),
    (b"%!ps", "unsupported format EPS"),
    (b"\xc5\xd0\xd3\xc6", "unsupported format EPS"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")


class UndecodableError(Exception):
    """An image cannot be used; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Header:
    """Format, size in pixels as stored (before any turning by EXIF), and Pillow's pixel mode."""

    format: str
    width: int
    height: int
    mode: str


def open_lazily(data: bytes) -> Image.Image:
    """Pillow's image of `data`, of which the header alone is read.

    Raises:
        UndecodableError: Not an image, of an unsupported format, or too large to be unpacked.
    """
    if not data:
        raise UndecodableError("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise UndecodableError(_what_it_is(data)) from None
    except Image.DecompressionBombError:
        raise UndecodableError(f"more than {MAX_PIXELS:,} pixels") from None
    except (
        Exception
    ) as error:  # a decoder may raise anything: ValueError, SyntaxError, struct.error
        raise UndecodableError(f"damaged header: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableError(f"{image.width} by {image.height} is over {MAX_PIXELS:,} pixels")
    return image


def read_header(data: bytes) -> Header:
    """The header of an image's bytes.

    Raises:
        UndecodableError: As `open_lazily`.
    """
    image = open_lazily(data)
    return Header(image.format or "", image.width, image.height, image.mode)


def _what_it_is(data: bytes) -> str:
    start = data[:64].lstrip().lower()
    for telltale, words in _TELLTALES:
        if start.startswith(telltale):
            return words
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "unsupported format HEIC"
    return "not an image, or damaged beyond recognition"
