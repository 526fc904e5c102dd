"""What an image's first bytes say of it: format, size, pixel type. Torch is not needed for it."""

import io
import logging
import os
import struct
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from trialrun.errors import summarize_error

# Pillow's own alarm level, a quarter of a gigabyte of RGB; what is larger is taken for a bomb.
MAX_PIXELS = 89_478_485

# What Pillow warns of (odd EXIF, say) is judged here and told with the image's name, or not at all.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").addHandler(logging.NullHandler())

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
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "ICO": (".ico",),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
    "PCX": (".pcx",),
    "SGI": (".sgi",),
    "QOI": (".qoi",),
}
_SAME_FORMAT = {"MPO": "JPEG", "DIB": "BMP"}  # Pillow's names for what people call one format
_ANIMATED_FORMATS = frozenset({"GIF", "WEBP", "PNG", "AVIF", "TIFF"})
_SMALL_PIXELS = 8  # a shorter side than this shows little
_LONG_RATIO = 20
_JPEG_START, _MARKER = b"\xff\xd8", 0xFF
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
# Lossless and arithmetic frames, markers without a length, the scan and the end.
_JPEG_OTHER = frozenset({0x00, 0x01, *range(0xC3, 0xDB), _MARKER}) - {0xC4, 0xCC}
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")


class UndecodableError(Exception):
    """An image cannot be used; the message says why, in a few words."""


class TransientDecodeError(UndecodableError):
    """It cannot be used now, for what its bytes do not say: another time it may be. Not kept."""


TOO_LARGE_FOR_MEMORY = "too large for the memory there is"


@dataclass(frozen=True, slots=True)
class Header:
    """Format, size in pixels as stored (before any turning by EXIF), and Pillow's pixel mode."""

    format: str
    width: int
    height: int
    mode: str
    is_animated: bool = False

    def warning(self, name: str) -> str:
        """What a person should know of the image that is called `name`; empty where nothing."""
        told = []
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - 200,000 names
        if suffix and suffix not in _SUFFIXES.get(self.format, (suffix,)):
            told.append(f"is {self.format} and named {suffix}")
        if self.is_animated:
            told.append("has several frames, of which the first is used")
        short, long = sorted((self.width, self.height))
        if short < _SMALL_PIXELS or long > _LONG_RATIO * short:
            told.append(f"is {self.width} by {self.height} pixels")
        return "; ".join(told)


def open_lazily(data: bytes) -> Image.Image:
    """Pillow's image of `data`, of which the header alone is read.

    Raises:
        UndecodableError: Not an image, of an unsupported format, or too large to be unpacked.
        PassingError: Too large for the memory there is now.
    """
    if not data:
        raise UndecodableError("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise UndecodableError(_describe_format(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UndecodableError(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise TransientDecodeError(TOO_LARGE_FOR_MEMORY) from None
    except Exception as error:  # anything: ValueError, SyntaxError, struct.error, ...
        raise UndecodableError(f"damaged header: {summarize_error(error)}") from error
    _check_size(image.width, image.height)
    return image


def read_header(data: bytes) -> Header:
    """The header of an image's bytes.

    Raises:
        UndecodableError: As `open_lazily`.
    """
    if (size := read_plain_jpeg_size(data)) is not None:
        return Header("JPEG", *size, "RGB")
    image = open_lazily(data)
    name = _SAME_FORMAT.get(image.format or "", image.format or "")
    return Header(name, image.width, image.height, image.mode, _is_animated(image))


def read_plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an everyday JPEG: 8 bits, gray or three colours, baseline or progressive.

    None for any other file, which Pillow is asked about; that takes ten times as long.

    Raises:
        UndecodableError: Too large to be unpacked.
    """
    place = 2
    if data[:2] != _JPEG_START:
        return None
    while place + 10 <= len(data) and data[place] == _MARKER:
        kind = data[place + 1]
        if kind in _JPEG_FRAMES:
            height, width, num_colors = struct.unpack_from(">HHB", data, place + 5)
            if data[place + 4] != 8 or num_colors not in (1, 3) or not height or not width:
                return None
            _check_size(width, height)
            return width, height
        if kind in _JPEG_OTHER:
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableError(f"{width} by {height} is over {MAX_PIXELS:,} pixels")


def _is_animated(image: Image.Image) -> bool:
    if image.format not in _ANIMATED_FORMATS:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is damaged, which is none of ours
        return True


def _describe_format(data: bytes) -> str:
    start = data[:64].lstrip().lower()
    for telltale, words in _TELLTALES:
        if start.startswith(telltale):
            return words
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "unsupported format HEIC"
    return "not an image, or damaged beyond recognition"
