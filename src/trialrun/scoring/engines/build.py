"""Building of an engine's files from a classifier, with quantization where the engine needs it."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.config.engines import ONNX_RUNTIME, OPENVINO_BF16, OPENVINO_INT8, TORCH_BF16
from trialrun.errors import InvalidParameterError
from trialrun.extras import import_extra
from trialrun.models.classifier import ImageClassifier
from trialrun.scoring.engines.export import export_onnx

_EXTRA = "openvino"


def build_engine(
    engine: str, classifier: ImageClassifier, calibration: Sequence[Tensor]
) -> dict[str, bytes]:
    """Return the contents of the files of `engine` by name.

    `calibration` are (3, S, S) uint8 images like the ones to score, which quantization measures.

    Raises:
        InvalidParameterError: A package is not installed, the network cannot be exported, or
            quantization has no images.
    """
    if engine == TORCH_BF16:
        return {}
    if engine != ONNX_RUNTIME:
        import_extra("openvino", _EXTRA, needed_by=f"the engine {engine}")
    content = export_onnx(classifier)
    if engine == ONNX_RUNTIME:
        return {"engine.onnx": content}
    model = _read_openvino(content)
    if engine == OPENVINO_INT8:
        model = _quantize(model, calibration)
    else:
        assert engine == OPENVINO_BF16
    return _serialize_openvino(model)


def _read_openvino(content: bytes) -> Any:
    openvino = import_extra("openvino", _EXTRA, needed_by="an engine of OpenVINO")
    return openvino.Core().read_model(content)


def _quantize(model: Any, calibration: Sequence[Tensor]) -> Any:
    """Return the model with int8 weights and activations, calibrated on the images."""
    if not calibration:
        raise InvalidParameterError(
            f"the engine {OPENVINO_INT8} needs images for its calibration", "Give --data."
        )
    images: list[NDArray[np.uint8]] = [
        np.ascontiguousarray(image.numpy()[None]) for image in calibration
    ]
    with _silence():
        nncf = import_extra("nncf", _EXTRA, needed_by=f"the engine {OPENVINO_INT8}")
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide nncf's progress bars and its log."""
    logger = logging.getLogger("nncf")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.disabled = was_disabled


def _serialize_openvino(model: Any) -> dict[str, bytes]:
    """Return the two files of OpenVINO's own format."""
    openvino = import_extra("openvino", _EXTRA, needed_by="an engine of OpenVINO")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "engine.xml")
        openvino.save_model(model, str(path), compress_to_fp16=False)
        return {name: Path(scratch, name).read_bytes() for name in ("engine.xml", "engine.bin")}
