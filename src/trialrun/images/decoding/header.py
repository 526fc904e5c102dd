"""Parsing of an image's header: format, size, pixel mode. Does not need torch."""

import io
import logging
import os
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from trialrun.errors import InvalidParameterError, summarize_error
from trialrun.extras import import_extra
from trialrun.images.decoding.dicom import is_dicom, read_dicom_header
from trialrun.images.decoding.jpeg import PlainJpeg, parse_plain_jpeg
from trialrun.images.decoding.png import parse_plain_png

# Pillow's warning level: a quarter of a gigabyte of RGB. Larger images count as bombs.
MAX_PIXELS = 89_478_485

# `Header.warning` reports what matters of Pillow's warnings, with the image's name.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Excludes EPS, for which Pillow runs Ghostscript, and formats that are not pictures.
_FORMATS = "JPEG PNG BMP DIB GIF WEBP TIFF PPM TGA ICO JPEG2000 AVIF PCX SGI QOI".split()
_FOREIGN_STARTS = (  # lower-case start of a file that is not a supported image, its description
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
    "HEIF": (".heic", ".heif", ".hif"),
    "DICOM": (".dcm", ".dicom"),
}
_COMMON_NAMES = {"MPO": "JPEG", "DIB": "BMP"}  # Pillow's name of a variant to the common name
_ANIMATED_FORMATS = frozenset({"GIF", "WEBP", "PNG", "AVIF", "TIFF"})
_SMALL_PIXELS = 8  # a warning is given below this shorter side
_LONG_RATIO = 20
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1")


class UndecodableError(Exception):
    """An image cannot be used; the message gives the reason in a few words."""


class TransientDecodeError(UndecodableError):
    """An image cannot be used now but may be usable later; its reason must not be cached."""


class UnknownFormatError(UndecodableError):
    """The file is not an image, or has a format that is not supported."""


OUT_OF_MEMORY_REASON = "too large for the free memory"


@dataclass(frozen=True, slots=True)
class Header:
    """Format, stored size in pixels (before EXIF rotation), and Pillow's pixel mode."""

    format: str
    width: int
    height: int
    mode: str
    is_animated: bool = False

    def warning(self, name: str) -> str:
        """Describe the oddities of the image file `name`, if any."""
        oddities = []
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - 200,000 names
        if suffix and suffix not in _SUFFIXES.get(self.format, (suffix,)):
            oddities.append(f"is {self.format} and named {suffix}")
        if self.is_animated:
            oddities.append("has several frames, of which the first is used")
        short, long = sorted((self.width, self.height))
        if short < _SMALL_PIXELS or long > _LONG_RATIO * short:
            oddities.append(f"is {self.width} by {self.height} pixels")
        return "; ".join(oddities)


def open_lazily(data: bytes) -> Image.Image:
    """Open an image file's content with Pillow, reading its header only.

    Raises:
        UnknownFormatError: Not an image, or an unsupported format.
        UndecodableError: Empty, damaged, or too many pixels.
        TransientDecodeError: Not enough free memory.
    """
    if not data:
        raise UndecodableError("empty file")
    try:
        image = _open_any(data)
    except InvalidParameterError as error:
        raise report_missing_package(error) from None
    except UnidentifiedImageError:
        raise UnknownFormatError(_describe_format(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UndecodableError(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise TransientDecodeError(OUT_OF_MEMORY_REASON) from None
    except Exception as error:  # anything: ValueError, SyntaxError, struct.error, ...
        raise UndecodableError(f"damaged header: {summarize_error(error)}") from error
    _check_size(image.width, image.height)
    return image


def read_header(data: bytes) -> Header:
    """Parse the header of an image file's content.

    Raises:
        UndecodableError: As `open_lazily`.
        TransientDecodeError: As `open_lazily`.
    """
    if (jpeg := read_plain_jpeg(data)) is not None:
        return Header("JPEG", jpeg.width, jpeg.height, "RGB")
    if (png := parse_plain_png(data)) is not None:
        _check_size(png.width, png.height)
        return Header("PNG", png.width, png.height, png.mode)
    if is_dicom(data):
        return _read_dicom(data)
    image = open_lazily(data)
    name = _COMMON_NAMES.get(image.format or "", image.format or "")
    return Header(name, image.width, image.height, image.mode, _is_animated(image))


def read_plain_jpeg(data: bytes) -> PlainJpeg | None:
    """Parse the header of a plain JPEG; None for any other file.

    Raises:
        UndecodableError: Too many pixels.
    """
    if (jpeg := parse_plain_jpeg(data)) is not None:
        _check_size(jpeg.width, jpeg.height)
    return jpeg


def report_missing_package(error: InvalidParameterError) -> TransientDecodeError:
    """Return the error of an image that an extra of trialrun reads, which is not installed."""
    return TransientDecodeError(f"{error}. {error.hint}")


def _read_dicom(data: bytes) -> Header:
    try:
        header = read_dicom_header(data)
    except InvalidParameterError as error:
        raise report_missing_package(error) from None
    except Exception as error:  # pydicom raises errors of many classes
        raise UndecodableError(f"damaged header: {summarize_error(error)}") from error
    _check_size(header.width, header.height)
    return Header("DICOM", header.width, header.height, header.mode, header.num_frames > 1)


def _open_any(data: bytes) -> Image.Image:
    """Open a file with Pillow, or with pillow-heif.

    Raises:
        InvalidParameterError: It is HEIC, and pillow-heif is not installed.
        UnidentifiedImageError: It has another format.
    """
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS:
            raise
    import_extra("pillow_heif", "heic", needed_by="a HEIC image").register_heif_opener()
    return Image.open(io.BytesIO(data), formats=["HEIF"])


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableError(f"{width} by {height} is over {MAX_PIXELS:,} pixels")


def _is_animated(image: Image.Image) -> bool:
    if image.format not in _ANIMATED_FORMATS:
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is damaged, which does not matter here
        return True


def _describe_format(data: bytes) -> str:
    start = data[:64].lstrip().lower()
    for foreign_start, description in _FOREIGN_STARTS:
        if start.startswith(foreign_start):
            return description
    return "not an image, or damaged beyond recognition"
