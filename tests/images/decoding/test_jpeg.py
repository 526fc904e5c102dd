"""JPEG: orientation as Pillow reads it, and decoding at a fraction of the size."""

import io
import itertools
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from trialrun.images.decoding.decode import decode_image
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing

XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
TYPES = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # of TIFF's integers


def encode_jpeg(image: Image.Image, *segments: bytes, quality: int = 90) -> bytes:
    """Encode an image as JPEG with these APP1 segments before all others."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    data = file.getvalue()
    parts = [b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in segments]
    return data[:2] + b"".join(parts) + data[2:]


def make_exif(orientation: int, order: str, kind: int) -> bytes:
    """Make an Exif segment with an orientation of the TIFF type `kind`."""
    start = b"II" if order == "<" else b"MM"
    value = struct.pack(order + TYPES[kind], orientation).ljust(4, b"\0")
    entries = struct.pack(order + "HHHI", 1, 0x0112, kind, 1) + value + bytes(4)
    return b"Exif\0\0" + start + struct.pack(order + "HI", 42, 8) + entries


def make_xmp(text: str = "") -> bytes:
    """Make an XMP segment."""
    return XMP_START + f"<x:xmpmeta {text}/>".encode()


def transpose_with_pillow(data: bytes) -> Image.Image:
    """Decode and rotate as Pillow does."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def load_photo(width: int, height: int) -> Image.Image:
    """Return a photo of this size."""
    return Image.fromarray(load_sample_images().images[0]).resize((width, height))


@pytest.mark.parametrize("xmp", ["none", "before", "after"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_as_pillow_reads_it(order: str, xmp: str) -> None:
    """All orientations, types of integers and byte orders, with XMP before or after Exif."""
    image = load_photo(48, 32)
    for orientation, kind in itertools.product(range(10), TYPES):
        segments = [make_exif(orientation, order, kind)]
        if xmp != "none":
            segments.insert(0 if xmp == "before" else 1, make_xmp())
        data = encode_jpeg(image, *segments)
        expected = np.asarray(transpose_with_pillow(data))
        assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), expected)


def test_orientation_of_xmp_counts_without_one_in_exif() -> None:
    """Exif has precedence over XMP."""
    image, xmp = load_photo(48, 32), make_xmp('tiff:Orientation="6"')
    assert decode_image(encode_jpeg(image, xmp)).shape == (3, 48, 32)
    assert decode_image(encode_jpeg(image, xmp, make_exif(1, "<", 3))).shape == (3, 32, 48)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_decoding_changes_pixels_by_less_than_two(fit: str, orientation: int) -> None:
    """A photo that is much larger than needed differs little from the full decode, also if its
    sides are no multiples of 8 and it is rotated.
    """
    preprocessing = Preprocessing(56, fit=fit, interpolation="bicubic")
    data = encode_jpeg(load_photo(1283, 853), make_exif(orientation, "<", 3))
    reduced, full = preprocessing.decode(data), preprocessing.prepare(decode_image(data))
    difference = (reduced.float() - full.float()).abs().mean().item()
    assert 0 < difference < 2  # 0 would mean that the full size was decoded


def test_smaller_photos_are_decoded_at_full_size() -> None:
    """Below two and a half times the network's size, the pixels are those of the full decode."""
    preprocessing = Preprocessing(64)
    data = encode_jpeg(load_photo(230, 159))
    assert torch.equal(preprocessing.decode(data), preprocessing.prepare(decode_image(data)))


def test_truncated_large_photo_is_refused() -> None:
    """The reduced decode notices it too."""
    data = encode_jpeg(load_photo(1280, 854))
    with pytest.raises(UndecodableError, match="damaged"):
        Preprocessing(32).decode(data[: len(data) // 2])
