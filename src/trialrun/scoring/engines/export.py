"""Networks as files: ONNX and torch.export's pt2, from uint8 pixels to probabilities.

Tensor letters: N images, C classes, S the image size.
"""

import io
import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from trialrun.errors import InvalidParameterError, summarize_error
from trialrun.extras import import_extra
from trialrun.models.classifier import ImageClassifier
from trialrun.models.fold import find_followers, fold_batch_norm

INPUT, OUTPUT = "pixels", "probabilities"
_EXAMPLE_IMAGES, _EXAMPLE_SIZE = 2, 224
_OPSET = 17


class ProbabilityNetwork(nn.Module):
    """(N, 3, S, S) uint8 to (N, C) float32 probabilities; normalisation and softmax included."""

    factor: Tensor
    shift: Tensor

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        network = classifier.network
        self.network = fold_batch_norm(network, find_followers(network))
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            for values in (classifier.preprocessing.mean, classifier.preprocessing.std)
        )
        # As `Preprocessing.normalised` computes, but its cached tensors cannot be exported.
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("shift", mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probabilities."""
        logits: Tensor = self.network(pixels.to(torch.float32) * self.factor - self.shift)
        return logits.softmax(dim=1)


def make_example(classifier: ImageClassifier) -> Tensor:
    """Return pixels of the shape that the network takes."""
    size = classifier.preprocessing.image_size or _EXAMPLE_SIZE
    return torch.zeros(_EXAMPLE_IMAGES, 3, size, size, dtype=torch.uint8)


def export_onnx(classifier: ImageClassifier) -> bytes:
    """Return the classifier as an ONNX file, with classes and preprocessing in its metadata.

    Raises:
        InvalidParameterError: The package onnx is missing, or the network cannot be exported.
    """
    onnx = import_extra("onnx", "onnx", needed_by="an ONNX file")
    axes = {0: "images"}
    if classifier.preprocessing.image_size is None:
        axes |= {2: "height", 3: "width"}
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # The exporter by tracing: the newer one takes 10 times as long for the same file.
            torch.onnx.export(
                ProbabilityNetwork(classifier).eval(),
                (make_example(classifier),),
                buffer,  # type: ignore[arg-type] # accepted by this exporter
                dynamo=False,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: axes, OUTPUT: {0: "images"}},
            )
        model = onnx.load_from_string(buffer.getvalue())
        onnx.checker.check_model(model)
    except Exception as error:  # exporter and checker raise errors of many classes
        raise _export_error("ONNX", error) from error
    onnx.helper.set_model_props(model, describe_classifier(classifier))
    content: bytes = model.SerializeToString()
    return content


def export_pt2(classifier: ImageClassifier) -> bytes:
    """Return the classifier as a file of `torch.export.save`.

    Raises:
        InvalidParameterError: The network cannot be exported.
    """
    dimensions: dict[int, Any] = {0: torch.export.Dim("images", min=1, max=1 << 16)}
    if classifier.preprocessing.image_size is None:
        dimensions |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                ProbabilityNetwork(classifier).eval(),
                (make_example(classifier),),
                dynamic_shapes=(dimensions,),
            )
            extra = {f"{name}.json": text for name, text in describe_classifier(classifier).items()}
            torch.export.save(program, buffer, extra_files=extra)
    except Exception as error:  # tracing raises errors of many classes
        raise _export_error("pt2", error) from error
    return buffer.getvalue()


def describe_classifier(classifier: ImageClassifier) -> dict[str, str]:
    """Return the metadata of an exported file: classes and preprocessing, as JSON."""
    return {
        "classes": json.dumps(list(classifier.classes)),
        "preprocessing": json.dumps(classifier.preprocessing.to_json()),
    }


def _export_error(format_name: str, error: Exception) -> InvalidParameterError:
    return InvalidParameterError(
        f"the network cannot be exported as {format_name}: {summarize_error(error)}",
        "Export it in another format.",
    )
