"""Export of a model as a file that computes probabilities without trialrun."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trialrun.config.engines import ONNX_RUNTIME
from trialrun.config.export import ONNX, PT2, ExportConfig
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.files import write_durably
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry.pins import find_pinned_folder
from trialrun.runs.datasets.outputs import output_folder
from trialrun.runs.export.images import sample_files
from trialrun.scoring.engines.export import export_onnx, export_pt2
from trialrun.scoring.engines.runtime import EngineNetwork
from trialrun.scoring.network import ScoringNetwork, TorchNetwork
from trialrun.scoring.parity import (
    NUM_PARITY_IMAGES,
    Parity,
    compare_forms,
    compute_all,
    prepare_images,
)

_CPU = torch.device("cpu")
_EXPORTERS: dict[str, Callable[[ImageClassifier], bytes]] = {ONNX: export_onnx, PT2: export_pt2}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The written file, and its largest difference from torch in a probability."""

    output: str
    format: str
    num_bytes: int
    num_parity_images: int
    parity_max_difference: float


class _ProgramNetwork:
    """A `ScoringNetwork` of a program that `torch.export` saved."""

    def __init__(self, content: bytes, classifier: ImageClassifier) -> None:
        self._module = torch.export.load(io.BytesIO(content)).module()
        self.classes = classifier.classes
        self.preprocessing = classifier.preprocessing

    def compute_probabilities(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, C) float32."""
        with torch.no_grad():
            probabilities: Tensor = self._module(pixels)
        return probabilities


def choose_format(out: str, config: ExportConfig) -> str:
    """Return the format of the setting, else of the suffix of `out`.

    Raises:
        InvalidParameterError: Neither names a format.
    """
    chosen = config.format or Path(out).suffix.removeprefix(".").lower()
    if chosen not in _EXPORTERS:
        raise InvalidParameterError(
            f"{out} names no format", f"Give --format {' or '.join(_EXPORTERS)}."
        )
    return chosen


@isolate_torch_state()
def export_model(model: str, out: str, config: ExportConfig) -> ExportResult:
    """Write the model as a file, unless its probabilities differ from torch's.

    Raises:
        InvalidModelDirectoryError: They differ, or the model cannot be opened; no file is left.
        InvalidParameterError: The network cannot be exported, or a package is missing.
        StorageError: The file cannot be written.
    """
    file_format = choose_format(out, config)
    path = output_folder(out)
    if path.is_dir():
        raise InvalidParameterError(f"{out} is a folder", "Name the file to write.")
    classifier = open_classifier(find_pinned_folder(model))
    files = sample_files(config.data, NUM_PARITY_IMAGES) if config.data else []
    content = _EXPORTERS[file_format](classifier)
    parity = measure_file_parity(classifier, file_format, content, files)
    if not parity.is_equal:
        raise InvalidModelDirectoryError(
            f"the exported model is not equal: {parity.describe_largest()}",
            "No file is written. Export it in another format.",
        )
    write_durably(path, content)
    return ExportResult(
        str(path), file_format, len(content), parity.num_images, parity.max_difference
    )


def measure_file_parity(
    classifier: ImageClassifier, file_format: str, content: bytes, files: list[bytes]
) -> Parity:
    """Compare an exported file with torch in fp32 on `files` and on drawn images of odd sizes."""
    reference = TorchNetwork(classifier, _CPU)
    images = prepare_images(classifier.preprocessing, files)
    expected = compute_all(reference, images)
    network: ScoringNetwork = (
        _ProgramNetwork(content, classifier)
        if file_format == PT2
        else EngineNetwork(
            ONNX_RUNTIME,
            {"engine.onnx": content},
            classifier.classes,
            classifier.preprocessing,
        )
    )
    return compare_forms(expected, {file_format: compute_all(network, images)})
