"""Networks computed by ONNX Runtime, by OpenVINO or by torch in bf16, all on the CPU.

A file of an engine is data: no engine loads extensions or code that a file names.
Tensor letters: N images, C classes, S the image size.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.config.engines import ONNX_RUNTIME, OPENVINO_BF16, OPENVINO_INT8
from trialrun.errors import InvalidModelDirectoryError, summarize_error
from trialrun.extras import import_extra
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.scoring.engines.export import INPUT

_Pixels = NDArray[np.uint8]
_Compute = Callable[[_Pixels], NDArray[np.float32]]
_HINT = "Take another copy of the model, or export it again."


class EngineNetwork:
    """A `ScoringNetwork` that another library computes; several threads may use it at once."""

    device = torch.device("cpu")

    def __init__(
        self,
        engine: str,
        files: Mapping[str, bytes],
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
    ) -> None:
        """Load the files of `engine`.

        Raises:
            InvalidParameterError: The engine's package is not installed.
            InvalidModelDirectoryError: The engine cannot load the files.
        """
        self.engine = engine
        self.classes = classes
        self.preprocessing = preprocessing
        load = _LOADERS[engine]
        try:
            self._compute = load(files)
        except (RuntimeError, ValueError) as error:
            raise InvalidModelDirectoryError(
                f"the files for {engine} cannot be loaded: {summarize_error(error)}", _HINT
            ) from error

    def compute_probabilities(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, C) float32; each row sums to 1."""
        return torch.from_numpy(self._compute(np.ascontiguousarray(pixels.numpy())))


def _load_onnx(files: Mapping[str, bytes]) -> _Compute:
    runtime = import_extra("onnxruntime", "onnx", needed_by=f"the engine {ONNX_RUNTIME}")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(
            files["engine.onnx"], options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library's errors have no common class
        raise ValueError(summarize_error(error)) from error

    def compute(pixels: _Pixels) -> NDArray[np.float32]:
        (probabilities,) = session.run(None, {INPUT: pixels})
        return np.asarray(probabilities, dtype=np.float32)

    return compute


def _load_openvino(files: Mapping[str, bytes], precision: str) -> _Compute:
    openvino = import_extra("openvino", "openvino", needed_by="an engine of OpenVINO")
    core = openvino.Core()
    weights = openvino.Tensor(np.frombuffer(files["engine.bin"], dtype=np.uint8).copy())
    model = core.read_model(files["engine.xml"], weights)
    return compile_openvino(core, model, precision)


def compile_openvino(core: Any, model: Any, precision: str) -> _Compute:
    """Return the function that computes an OpenVINO model in `bf16` or `f32` where not quantized.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
    """
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # pinned threads wait for other programs on the same cores
    }
    compiled = core.compile_model(model, "CPU", options)
    requests = threading.local()  # a request computes one batch at a time

    def compute(pixels: _Pixels) -> NDArray[np.float32]:
        if not hasattr(requests, "request"):
            requests.request = compiled.create_infer_request()
        results = requests.request.infer({0: pixels}, share_inputs=True)
        return np.array(results[0], dtype=np.float32)  # a copy: the request owns the result

    return compute


_LOADERS: Mapping[str, Callable[[Mapping[str, bytes]], _Compute]] = {
    ONNX_RUNTIME: _load_onnx,
    OPENVINO_BF16: lambda files: _load_openvino(files, "bf16"),
    OPENVINO_INT8: lambda files: _load_openvino(files, "f32"),
}
