"""Bad and odd images, lines 1 to 16 of the list of faults: each skipped, warned of or put right."""

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


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """A colourful noise."""
    noise = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def checked(tmp_path: Path, name: str, data: bytes) -> tuple[str, str]:
    """Why the scan skips a file, and what it warns of."""
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)
    values = check_datasets(str(folder.parent)).to_json()["sets"][0]
    return values["skipped"].get(f"a/{name}", ""), values["warned"].get(f"a/{name}", "")


def test_fault_01_an_empty_file_is_skipped(tmp_path: Path) -> None:
    """Zero bytes are skipped, and said to be none."""
    assert checked(tmp_path, "a.jpg", b"")[0] == "empty file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_fault_02_a_truncated_file_is_skipped(tmp_path: Path, kind: str, share: float) -> None:
    """A file cut off anywhere is not half an image."""
    data = encoded(picture(), kind)
    assert checked(tmp_path, "a." + kind.lower(), data[: int(len(data) * share)])[0]


def test_fault_03_every_flipped_bit_of_a_png_is_found() -> None:
    """No single bit of a PNG can change and be decoded to other pixels."""
    data = encoded(picture(6, 5), "PNG")
    whole = decode_image(data)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert torch.equal(decode_image(bytes(damaged)), whole)
        except UndecodableError:
            continue


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
    ],
)
def test_fault_04_a_page_or_pointer_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    """What a failed download left says what it is."""
    assert said in checked(tmp_path, "a.jpg", data)[0]


def test_fault_05_a_png_named_jpg_is_read_with_a_warning(tmp_path: Path) -> None:
    """The content decides, not the name."""
    reason, warning = checked(tmp_path, "a.jpg", encoded(picture(), "PNG"))
    assert reason == ""
    assert warning == "is PNG and named .jpg"


@pytest.mark.parametrize("side", [10_000, 14_000])
def test_fault_06_a_bomb_is_never_unpacked(tmp_path: Path, side: int) -> None:
    """A small file of very many pixels is refused by its header, at once."""

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
    assert "pixels" in checked(tmp_path, "a.png", bomb)[0]


def test_fault_07_sixteen_bits_are_scaled() -> None:
    """16-bit grays become 8-bit grays, black to black, white to white."""
    grays = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert (
            decode_image(encoded(Image.fromarray(grays), kind))[:, 0].tolist()
            == [[0, 10, 128, 255]] * 3
        )


def test_fault_08_a_float_tiff_is_skipped(tmp_path: Path) -> None:
    """Nobody knows what is white in a floating-point image."""
    image = Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32))
    assert "floating-point" in checked(tmp_path, "a.tif", encoded(image, "TIFF"))[0]


def test_fault_09_cmyk_is_converted() -> None:
    """A CMYK JPEG looks as it does to Pillow."""
    data = encoded(picture(mode="CMYK"), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_fault_10_what_is_transparent_becomes_white(mode: str) -> None:
    """Alpha and a palette's transparency are laid on white."""
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image = clear if mode == "RGBA" else clear.convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    assert decode_image(encoded(image, "PNG", **options)).unique().tolist() == [255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fault_11_exif_turns_images_alike_in_every_format(kind: str, orientation: int) -> None:
    """Whatever a camera's orientation says, the brightest corner comes out where it belongs."""
    corner_of = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}
    grays = np.zeros((32, 48), dtype=np.uint8)
    grays[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode_image(
        encoded(Image.fromarray(grays).convert("RGB"), kind, exif=exif, **options)
    )
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
def test_fault_12_the_first_frame_of_an_animation_counts(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    """An animation is read as its first frame, with a warning."""
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert "several frames" in checked(tmp_path, "a" + suffix, data)[1]
    red, _, blue = decode_image(data).float().mean(dim=(1, 2)).tolist()
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
    ],
)
def test_fault_13_other_formats_are_named(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    """A format that is not read is named, and no outside program is started for it."""
    assert checked(tmp_path, name, data)[0] == f"unsupported format {said}"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 1)])
def test_fault_14_odd_shapes_are_read_with_a_warning(
    tmp_path: Path, width: int, height: int
) -> None:
    """A single pixel and a long line are images, if odd ones."""
    reason, warning = checked(tmp_path, "a.png", encoded(picture(width, height), "PNG"))
    assert reason == ""
    assert f"{width} by {height}" in warning


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "TGA", "PCX", "ICO"])
def test_fault_15_a_decoder_that_fails_in_its_own_way_is_caught(kind: str) -> None:
    """Whatever byte of whatever format is spoilt, the answer is an image or a reason."""
    data = encoded(picture(16, 16), kind)
    for place, value in itertools.product(range(0, min(len(data), 400), 3), (0x00, 0xFF)):
        damaged = data[:place] + bytes([value]) + data[place + 1 :]
        with suppress(UndecodableError):
            assert decode_image(damaged).dtype == torch.uint8


@pytest.mark.parametrize("together", [1, 8, 40])
def test_fault_16_what_hangs_is_given_up(together: int) -> None:
    """One item that never ends is told as late; the others come, in their order."""

    def make(number: int) -> str:
        time.sleep(60 if number == 3 else 0.001)
        return str(number)

    made = map_in_order(
        make,
        range(20),
        threads=2,
        late=lambda number: f"late {number}",
        seconds=0.2,
        together=together,
    )
    assert list(made) == [f"late {n}" if n == 3 else str(n) for n in range(20)]


@pytest.mark.parametrize(("threads", "most"), [(1, 33), (2, 65), (16, 65)])
def test_many_threads_do_not_read_a_set_ahead(threads: int, most: int) -> None:
    """Items may be whole files: so many are pulled before the first result is taken, no more."""
    pulled = iter(range(1000))
    made = map_in_order(abs, pulled, threads=threads, late=abs)
    assert next(made) == 0
    assert next(pulled) <= most
    assert list(made)[:3] == [1, 2, 3]


def test_more_than_a_tenth_unreadable_is_an_error(tmp_path: Path) -> None:
    """Two bad of twenty are skipped, three of twenty-one are an error; `strict` takes none."""
    folder = write_classes(tmp_path / "set", {"a": 9, "b": 9}, size=8)
    for number in range(2):
        (folder / "a" / f"bad{number}.png").write_bytes(b"")
    (few,) = check_datasets(str(folder)).sets
    assert len(select_usable(few.images, few.decoded.reasons, strict=False)) == 18
    with pytest.raises(InvalidDatasetError, match="2 of 20 images"):
        check_datasets(str(folder), strict=True).raise_for_problems()
    (folder / "b" / "bad.png").write_bytes(b"")
    with pytest.raises(InvalidDatasetError, match="3 of 21 images"):
        check_datasets(str(folder)).raise_for_problems()


def test_fault_08_a_tiff_of_32_bits_is_skipped() -> None:
    """0 to 255 in 32 bits is not nearly black: nobody knows what is white."""
    image = Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16))
    with pytest.raises(UndecodableError, match="32-bit pixels"):
        decode_image(encoded(image, "TIFF"))


def test_fault_07_sixteen_bits_of_a_ppm_are_scaled() -> None:
    """Pillow opens them as 32 bits, of which 16 are used."""
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
    refs.write("5")  # the peak so far is forgotten

def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])

before = peak()
decode_image(file.getvalue())
print((peak() - before) * 1024 // 6000**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory")
@pytest.mark.parametrize(("mode", "most"), [("I;16", 10), ("RGBA", 15)])
def test_a_large_image_takes_little_more_memory_than_its_pixels(mode: str, most: int) -> None:
    """Bytes a pixel while one of 36 million is decoded: 3 for the result, what Pillow holds, and a
    strip of rows on its way.
    """
    ended = subprocess.run(
        [sys.executable, "-c", DECODE_LARGE, mode], capture_output=True, text=True, check=True
    )
    assert int(ended.stdout) <= most
