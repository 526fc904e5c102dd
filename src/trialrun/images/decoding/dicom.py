"""DICOM files (extra `[dicom]`): their first frame, as gray values or as RGB pixels."""

import importlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.extras import import_extra
from trialrun.images.decoding.gray_values import Tone

warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom")

_SIGNATURE, _SIGNATURE_START = b"DICM", 128
_GRAYS = frozenset({"MONOCHROME1", "MONOCHROME2"})


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """Width and height in pixels, the kind of pixels, and the number of frames."""

    width: int
    height: int
    mode: str
    num_frames: int


@dataclass(frozen=True, slots=True)
class DicomImage:
    """(H, W) values and their tone; or (H, W, 3) uint8 RGB pixels, without a tone."""

    pixels: NDArray[Any]
    tone: Tone | None


def is_dicom(data: bytes) -> bool:
    """Whether a file's content is DICOM."""
    return data[_SIGNATURE_START : _SIGNATURE_START + len(_SIGNATURE)] == _SIGNATURE


def read_dicom_header(data: bytes) -> DicomHeader:
    """Parse the attributes of the image, without its pixels.

    Raises:
        InvalidParameterError: pydicom is not installed.
        Exception: The file is damaged, or is not an image.
    """
    dataset = _import_pydicom().dcmread(io.BytesIO(data), stop_before_pixels=True)
    return DicomHeader(
        int(dataset.Columns),
        int(dataset.Rows),
        str(dataset.PhotometricInterpretation),
        int(dataset.get("NumberOfFrames") or 1),
    )


def read_dicom_image(data: bytes) -> DicomImage:
    """Decode the first frame. Gray values are rescaled to the file's units, such as Hounsfield's.

    Raises:
        InvalidParameterError: pydicom is not installed.
        Exception: The file is damaged, or is compressed in a way that no installed package reads.
    """
    pydicom = _import_pydicom()
    pixels = pydicom.pixels
    dataset = pydicom.dcmread(io.BytesIO(data))
    values = pixels.pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation in _GRAYS:
        return DicomImage(pixels.apply_modality_lut(values, dataset), _find_tone(dataset))
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = pixels.apply_color_lut(values, dataset)
    if values.dtype == np.uint16:
        values = values >> 8
    return DicomImage(np.ascontiguousarray(values[..., :3], dtype=np.uint8), None)


def _import_pydicom() -> Any:
    pydicom = import_extra("pydicom", "dicom", needed_by="a DICOM image")
    importlib.import_module("pydicom.pixels")
    return pydicom


def _find_tone(dataset: Any) -> Tone:
    """Return the file's first window, or the range of its stored bits in the file's units.

    Source:
        DICOM PS3.3, C.11.2.1.2: the linear function of a window.
    """
    is_inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    center, width = (_read_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None and width > 1:
        middle, half = center - 0.5, (width - 1) / 2
        return Tone(middle - half, middle + half, is_inverted, is_chosen=True)
    num_values = 1 << int(dataset.BitsStored)
    lowest = -num_values // 2 if dataset.PixelRepresentation else 0
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    return Tone(
        lowest * slope + intercept, (lowest + num_values - 1) * slope + intercept, is_inverted
    )


def _read_first(value: Any) -> float | None:
    """Return a number, or the first of several."""
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return float(value)
    return float(value[0]) if len(value) else None
