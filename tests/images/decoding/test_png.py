"""Tests of the parser of PNG headers, against Pillow."""

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trialrun.images.decoding.header import UndecodableError, open_lazily, read_header
from trialrun.images.decoding.png import parse_plain_png

MODES = ("L", "LA", "P", "RGB", "RGBA")


def encode(mode: str, size: tuple[int, int] = (5, 3), **options: object) -> bytes:
    """Return a PNG with many colors."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def insert_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """Return a PNG with another chunk behind its header."""
    chunk = struct.pack(">I", len(content)) + kind + content
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + data[33:]


@pytest.mark.parametrize("mode", MODES)
def test_plain_headers_have_size_and_mode(mode: str) -> None:
    """Each color type of 8 bits is parsed without Pillow."""
    found = parse_plain_png(encode(mode, dpi=(72, 72)))
    assert found is not None
    assert (found.width, found.height, found.mode) == (5, 3, mode)


def test_other_files_are_left_to_pillow() -> None:
    """16 bits, one bit, transparent colors, animations, profiles and texts are not plain."""
    second = Image.new("RGB", (5, 3), "red")
    others = [
        encode("I;16"),
        encode("1"),
        encode("RGB", transparency=(0, 0, 0)),
        encode("RGB", save_all=True, append_images=[second]),
        encode("RGB", icc_profile=b"profile"),
        insert_chunk(encode("RGB"), b"tEXt", b"a\0b"),
        insert_chunk(encode("RGB"), b"gAMA", b"1"),
        b"",
        b"\xff\xd8\xff",
    ]
    assert [parse_plain_png(data) for data in others] == [None] * len(others)


@given(st.sampled_from(MODES), st.data())
def test_damaged_headers_are_read_as_pillow_reads_them(mode: str, data: st.DataObject) -> None:
    """With any byte changed or any end cut off, the parser agrees with Pillow or finds nothing."""
    damaged = bytearray(encode(mode, dpi=(72, 72)))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    content = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    if (found := parse_plain_png(content)) is not None:
        with open_lazily(content) as image:
            assert (image.width, image.height, image.mode) == (found.width, found.height, mode)
            assert not getattr(image, "is_animated", False)


def test_too_many_pixels_are_refused() -> None:
    """The size in a plain header is checked."""
    header = struct.pack(">IIBBBBB", 1 << 15, 1 << 15, 8, 2, 0, 0, 0)
    data = encode("RGB")
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(UndecodableError, match="pixels"):
        read_header(data[:16] + header + checksum + data[33:])
