"""Values of more than 8 bits, DICOM and HEIC."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pillow_heif import from_pillow
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from trialrun.config import TrainConfig, build_config
from trialrun.errors import InvalidParameterError
from trialrun.images import open_data
from trialrun.images.decoding.decode import decode_image, decode_pillow_image, read_gray_values
from trialrun.images.decoding.header import TransientDecodeError, UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.images.scanning.value_range import (
    describe_narrow_range,
    measure_range,
    sample_gray_values,
)


def encode(image: Image.Image, kind: str) -> bytes:
    """Encode an image as a file's content."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def make_ramp(low: int, high: int) -> NDArray[np.uint16]:
    """Return 16 by 64 values from `low` to `high`."""
    return np.tile(np.linspace(low, high, 64).round().astype(np.uint16), (16, 1))


def make_dicom(values: NDArray[Any], **attributes: Any) -> bytes:
    """Make a DICOM file of one gray frame; attributes replace the defaults."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    defaults = {
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": values.astype("<u2").tobytes(),
    }
    for name, value in (defaults | attributes).items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_value_range_keeps_the_gray_levels_of_12_bits(kind: str) -> None:
    """Values from 0 to 4095 use all gray levels with value_range=0:4095, and 17 without."""
    data = encode(Image.fromarray(make_ramp(0, 4095)), kind)
    assert len(decode_image(data).unique()) <= 17
    scaled = Preprocessing(None, value_range=(0, 4095)).decode(data)
    assert scaled[0, 0].tolist() == np.linspace(0, 255, 64).round().astype(int).tolist()
    with Image.open(io.BytesIO(data)) as image:
        assert decode_pillow_image(image, (0, 4095)).equal(scaled)


def test_values_outside_the_range_are_clipped() -> None:
    """The ends of the range are black and white."""
    data = encode(Image.fromarray(np.array([[0, 900, 1100, 1300, 60000]], dtype=np.uint16)), "PNG")
    assert decode_image(data, (900, 1300))[0, 0].tolist() == [0, 0, 128, 255, 255]


def make_chunk(kind: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def make_deep_png(stream: bytes) -> bytes:
    """Make a PNG of two pixels with colors of 16 bits; `stream` is their compressed row."""
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header)
    return data + make_chunk(b"IDAT", stream) + make_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "stream", [b"no stream", zlib.compress(b"\0short"), zlib.compress(b"\x09" + bytes(12))]
)
def test_damaged_png_colors_of_16_bits_are_skipped(stream: bytes) -> None:
    """On such pixels, torchvision's decoder would end the process."""
    with pytest.raises(UndecodableError, match="damaged: "):
        decode_image(make_deep_png(stream), (0, 4095))


def test_png_colors_of_16_bits_are_scaled() -> None:
    """Pillow cuts them to 8 bits; a narrow range is noticed, too."""
    row = b"\0" + struct.pack(">6H", 0, 1024, 4095, 2048, 0, 4095)
    data = make_deep_png(zlib.compress(row))
    assert decode_image(data)[:, 0, 0].tolist() == [0, 4, 15]
    assert decode_image(data, (0, 4095))[:, 0, 0].tolist() == [0, 64, 255]
    values = read_gray_values(data)
    assert values is not None
    assert values.compute_share(None) < 0.1


def test_white_is_zero_of_16_bits_is_inverted() -> None:
    """Pillow inverts such TIFFs of 8 bits only; the range is that of the stored values."""
    file = io.BytesIO()
    Image.fromarray(make_ramp(0, 65535)).save(file, "TIFF", tiffinfo={262: 0})
    pixels = decode_image(file.getvalue())
    assert pixels[0, 0, [0, -1]].tolist() == [255, 0]
    half = decode_image(file.getvalue(), (0, 32767))
    assert half[0, 0, [0, 32, -1]].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "values", [np.array([[0, 1]], dtype=np.float32), np.array([[0, 100_000]], dtype=np.int32)]
)
def test_a_range_makes_32_bit_values_usable(values: NDArray[Any]) -> None:
    """Without a range their white is unknown, and they are refused."""
    data = encode(Image.fromarray(values), "TIFF")
    with pytest.raises(UndecodableError, match="value_range=LOW:HIGH"):
        decode_image(data)
    assert decode_image(data, (0, int(values.max())))[0, 0].tolist() == [0, 255]


def test_narrow_ranges_of_a_dataset_are_noticed_and_measured(tmp_path: Path) -> None:
    """The note names the range; after scaling there is none, nor for files of 8 bits."""
    for number, (low, high) in enumerate([(900, 1200), (1000, 1300)]):
        path = tmp_path / str(number) / "image.png"
        path.parent.mkdir()
        Image.fromarray(make_ramp(low, high)).save(path)
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(path.with_name("gray.png"))
    sample = sample_gray_values(scan_files(open_data(str(tmp_path), tmp_path), threads=1))
    assert len(sample) == 2
    assert measure_range(sample) == (900, 1300)
    note = describe_narrow_range(sample, None)
    assert note is not None
    assert "value_range=900:1300" in note
    assert describe_narrow_range(sample, (900, 1300)) is None
    assert measure_range([]) is None
    assert describe_narrow_range([], None) is None


def test_dicom_is_shown_in_its_window() -> None:
    """Rescale and window apply; value_range replaces the window, MONOCHROME1 is inverted."""
    hounsfield = {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    data = make_dicom(
        np.array([[0, 1024, 1063, 1265, 4095]]), WindowCenter=40.5, WindowWidth=401, **hounsfield
    )
    assert decode_image(data)[0, 0].tolist() == [0, 102, 127, 255, 255]
    assert decode_image(data, (-1024, 3071))[0, 0].tolist() == [0, 64, 66, 79, 255]
    whole = make_dicom(make_ramp(0, 4095))
    assert len(decode_image(whole).unique()) == 64
    inverted = decode_image(make_dicom(make_ramp(0, 4095), PhotometricInterpretation="MONOCHROME1"))
    assert (255 - inverted).equal(decode_image(whole))


def test_dicom_and_heic_are_listed_and_read_in_color(tmp_path: Path) -> None:
    """The files of a class folder are found by their names."""
    noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    color = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": noise.tobytes(),
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scan.dcm").write_bytes(make_dicom(noise[:, :, 0], **color))
    flat = Image.new("RGB", (64, 48), (200, 40, 90))
    from_pillow(flat).save(tmp_path / "a" / "photo.heic")
    scan = scan_files(open_data(str(tmp_path), tmp_path), threads=1)
    assert [(file.width, file.height, file.reason, file.warning) for file in scan.files] == [
        (64, 48, "", ""),
        (30, 20, "", ""),
    ]
    photo, dicom = (decode_image((tmp_path / item.name).read_bytes()) for item in scan.images.items)
    assert np.array_equal(dicom.permute(1, 2, 0).numpy(), noise)
    means = photo.float().mean(dim=(1, 2)).tolist()
    assert means == pytest.approx([200, 40, 90], abs=4)


@pytest.mark.parametrize("extra", ["dicom", "heic"])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extra: str
) -> None:
    """The reason is not cached: the image is usable once the package is installed."""
    data = make_dicom(make_ramp(0, 4095))
    if extra == "heic":
        file = io.BytesIO()
        from_pillow(Image.new("RGB", (64, 48))).save(file)
        data = file.getvalue()

    def fail(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("trialrun.extras.importlib.import_module", fail)
    with pytest.raises(TransientDecodeError, match=rf"'trialrun\[{extra}\]'"):
        decode_image(data)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"image.{extra.replace('dicom', 'dcm')}").write_bytes(data)
    (scanned,) = scan_files(open_data(str(tmp_path), tmp_path), threads=1).files
    assert f"trialrun[{extra}]" in scanned.reason
    assert scanned.fingerprint is None


def test_a_range_must_be_in_order() -> None:
    """The lower value comes first."""
    config = build_config(TrainConfig, {"value_range": "-1000:400"})
    assert config.parse_value_range() == (-1000, 400)
    with pytest.raises(InvalidParameterError, match="value_range=5:5"):
        build_config(TrainConfig, {"value_range": "5:5"})
