"""Damaged and unusual images: faults 1 to 16."""

import io
import itertools
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import write_classes
from trialrun.errors import InvalidDatasetError
from trialrun.image_cache import select_usable
from trialrun.images.decoding.decode import decode_image
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.thread_pool import map_in_order
from trialrun.runs.datasets.check import check_datasets


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image as a file's content."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_image(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """Create an image of random pixels."""
    noise = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def check_file(tmp_path: Path, name: str, data: bytes) -> tuple[str, str]:
    """Check a dataset of one file; return why the file is skipped, and its warning."""
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    values = check_datasets(str(folder.parent)).to_json()["sets"][0]
    return values["skipped"].get(f"a/{name}", ""), values["warned"].get(f"a/{name}", "")


def test_fault_01_an_empty_file_is_skipped(tmp_path: Path) -> None:
    """A file of zero bytes is skipped."""
    assert check_file(tmp_path, "a.jpg", b"")[0] == "empty file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_fault_02_a_truncated_file_is_skipped(tmp_path: Path, kind: str, share: float) -> None:
    """A file that is truncated anywhere is skipped."""
    data = encode(make_image(), kind)
    assert check_file(tmp_path, "a." + kind.lower(), data[: int(len(data) * share)])[0]


def test_fault_03_every_flipped_bit_of_a_png_is_found() -> None:
    """No change of a single bit in a PNG gives different pixels."""
    data = encode(make_image(6, 5), "PNG")
    whole = decode_image(data)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert torch.equal(decode_image(bytes(damaged)), whole)
        except UndecodableError:
            continue


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
    ],
)
def test_fault_04_pages_and_pointers_are_named(tmp_path: Path, data: bytes, reason: str) -> None:
    """The reason says what a failed download has left."""
    assert reason in check_file(tmp_path, "a.jpg", data)[0]


def test_fault_05_a_png_named_jpg_is_read_with_a_warning(tmp_path: Path) -> None:
    """The content decides the format, not the name."""
    reason, warning = check_file(tmp_path, "a.jpg", encode(make_image(), "PNG"))
    assert reason == ""
    assert warning == "is PNG and named .jpg"


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_fault_06_a_bomb_is_not_decoded(tmp_path: Path, side: int) -> None:
    """A small file of too many pixels is rejected by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = b"\0" + bytes(side // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    assert len(bomb) < 50_000
    assert "pixels" in check_file(tmp_path, "a.png", bomb)[0]


def test_fault_07_sixteen_bits_are_scaled() -> None:
    """16-bit grays become 8-bit grays; black stays black and white stays white."""
    grays = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert (
            decode_image(encode(Image.fromarray(grays), kind))[:, 0].tolist()
            == [[0, 10, 128, 255]] * 3
        )


def test_fault_08_a_float_tiff_is_skipped(tmp_path: Path) -> None:
    """The value range of a floating-point image is unknown."""
    image = Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32))
    assert "floating-point" in check_file(tmp_path, "a.tif", encode(image, "TIFF"))[0]


def test_fault_09_cmyk_is_converted() -> None:
    """A CMYK JPEG is converted as Pillow does."""
    data = encode(make_image(mode="CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_fault_10_transparent_pixels_become_white(mode: str) -> None:
    """Alpha channels and transparent palette colors are composited on white."""
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image = clear if mode == "RGBA" else clear.convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    assert decode_image(encode(image, "PNG", **options)).unique().tolist() == [255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fault_11_exif_rotates_images_of_every_format(kind: str, orientation: int) -> None:
    """For every EXIF orientation the bright corner is at the expected position."""
    corner_of = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}
    grays = np.zeros((32, 48), dtype=np.uint8)
    grays[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode_image(encode(Image.fromarray(grays).convert("RGB"), kind, exif=exif, **options))
    assert pixels.shape[1:] == ((48, 32) if orientation > 4 else (32, 48))
    corners = {
        "tl": pixels[:, :8, :8],
        "tr": pixels[:, :8, -8:],
        "bl": pixels[:, -8:, :8],
        "br": pixels[:, -8:, -8:],
    }
    brightest = max(corners, key=lambda name: float(corners[name].float().mean()))
    assert brightest == corner_of[orientation]


@pytest.mark.parametrize(("kind", "suffix"), [("GIF", ".gif"), ("WEBP", ".webp")])
def test_fault_12_an_animation_is_read_as_its_first_frame(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    """An animation is read as its first frame, with a warning."""
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert "several frames" in check_file(tmp_path, "a" + suffix, data)[1]
    red, _, blue = decode_image(data).float().mean(dim=(1, 2)).tolist()
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize(
    ("name", "data", "format_name"),
    [
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
    ],
)
def test_fault_13_other_formats_are_named(
    tmp_path: Path, name: str, data: bytes, format_name: str
) -> None:
    """An unsupported format is named, and no external program is started for it."""
    assert check_file(tmp_path, name, data)[0] == f"unsupported format {format_name}"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 1)])
def test_fault_14_unusual_sizes_are_read_with_a_warning(
    tmp_path: Path, width: int, height: int
) -> None:
    """A single pixel and a long line are read, with a warning."""
    reason, warning = check_file(tmp_path, "a.png", encode(make_image(width, height), "PNG"))
    assert reason == ""
    assert f"{width} by {height}" in warning


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "TGA", "PCX", "ICO"])
def test_fault_15_every_decoder_error_is_translated(kind: str) -> None:
    """With any byte changed in any format, the result is an image or UndecodableError."""
    data = encode(make_image(16, 16), kind)
    for index, value in itertools.product(range(0, min(len(data), 400), 3), (0x00, 0xFF)):
        damaged = data[:index] + bytes([value]) + data[index + 1 :]
        with suppress(UndecodableError):
            assert decode_image(damaged).dtype == torch.uint8


def replace_pixel_data(data: bytes, content: bytes) -> bytes:
    """Return a PNG with other compressed pixels and their right checksum."""
    start, end = data.index(b"IDAT"), data.index(b"IEND") - 4
    chunk = struct.pack(">I", len(content)) + b"IDAT" + content
    return data[: start - 4] + chunk + struct.pack(">I", zlib.crc32(b"IDAT" + content)) + data[end:]


def test_a_png_with_damaged_pixel_data_is_skipped() -> None:
    """Pixels that cannot be decompressed are named as such, though their checksum is right."""
    data = encode(make_image(), "PNG")
    for content in (zlib.compress(b"short"), b"no stream of zlib"):
        with pytest.raises(UndecodableError, match="damaged: "):
            decode_image(replace_pixel_data(data, content))


def test_fault_11_exif_behind_the_pixels_of_a_png_rotates_them() -> None:
    """The orientation counts wherever its chunk is."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(make_image(40, 30), "PNG")
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    end = data.index(b"IEND") - 4
    assert decode_image(data[:end] + chunk + data[end:]).shape == (3, 40, 30)


@pytest.mark.parametrize("chunk_size", [1, 8, 40])
def test_fault_16_a_hanging_item_times_out(chunk_size: int) -> None:
    """An item that exceeds the timeout is replaced; the others are returned in order."""

    def compute(number: int) -> str:
        time.sleep(60 if number == 3 else 0.001)
        return str(number)

    results = map_in_order(
        compute,
        range(20),
        threads=2,
        on_timeout=lambda number: f"late {number}",
        timeout_seconds=0.2,
        chunk_size=chunk_size,
    )
    assert list(results) == [f"late {n}" if n == 3 else str(n) for n in range(20)]


@pytest.mark.parametrize(("threads", "max_pulled"), [(1, 33), (2, 65), (16, 65)])
def test_number_of_queued_items_is_limited(threads: int, max_pulled: int) -> None:
    """Before the first result is taken, only a limited number of items is pulled."""
    items = iter(range(1000))
    results = map_in_order(abs, items, threads=threads, on_timeout=abs)
    assert next(results) == 0
    assert next(items) <= max_pulled
    assert list(results)[:3] == [1, 2, 3]


def test_more_than_a_tenth_unreadable_is_an_error(tmp_path: Path) -> None:
    """2 of 20 are skipped, 3 of 21 are an error; with `strict`, 1 is an error."""
    folder = write_classes(tmp_path / "set", {"a": 9, "b": 9}, size=8)
    for number in range(2):
        (folder / "a" / f"bad{number}.png").write_bytes(b"")
    (checked,) = check_datasets(str(folder)).sets
    assert len(select_usable(checked.images, checked.decoded.reasons, strict=False)) == 18
    with pytest.raises(InvalidDatasetError, match="2 of 20 images"):
        check_datasets(str(folder), strict=True).raise_for_problems()
    (folder / "b" / "bad.png").write_bytes(b"")
    with pytest.raises(InvalidDatasetError, match="3 of 21 images"):
        check_datasets(str(folder)).raise_for_problems()


def test_fault_08_a_tiff_of_32_bits_is_skipped() -> None:
    """The value range of 32-bit pixels is unknown."""
    image = Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16))
    with pytest.raises(UndecodableError, match="32-bit pixels"):
        decode_image(encode(image, "TIFF"))


def test_fault_07_sixteen_bits_of_a_ppm_are_scaled() -> None:
    """Pillow opens a 16-bit PPM in a 32-bit mode."""
    grays = np.array([[0, 257 * 10, 65535]], dtype=">u2")
    assert decode_image(b"P5 3 1 65535\n" + grays.tobytes())[0, 0].tolist() == [0, 10, 255]


DECODE_LARGE = """
import io, resource, sys
from PIL import Image
from trialrun.images.decoding.decode import decode_image

file = io.BytesIO()
Image.new(sys.argv[1], (6000, 6000), 9).save(file, "PNG", compress_level=1)
decode_image(b"P6 1 1 255\\n   ")
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # resets the peak

def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

before = peak()
decode_image(file.getvalue())
print((peak() - before) * 1024 // 6000**2)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory use from /proc")
@pytest.mark.parametrize(("mode", "max_bytes"), [("I;16", 10), ("RGBA", 15)])
def test_a_large_image_takes_little_more_memory_than_its_pixels(mode: str, max_bytes: int) -> None:
    """Peak bytes per pixel of a 36-megapixel image: 3 for the result, Pillow's, and a strip."""
    ended = subprocess.run(
        [sys.executable, "-c", DECODE_LARGE, mode], capture_output=True, text=True, check=True
    )
    assert int(ended.stdout) <= max_bytes
