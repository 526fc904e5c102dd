"""Names of the engines that can compute a model, and the files that each needs; no torch here."""

from collections.abc import Mapping

TORCH_FP32 = "torch-fp32"
TORCH_BF16 = "torch-bf16"
ONNX_RUNTIME = "onnxruntime"
OPENVINO_BF16 = "openvino-bf16"
OPENVINO_INT8 = "openvino-int8"

_ONNX_FILES = ("engine.onnx",)
_OPENVINO_FILES = ("engine.xml", "engine.bin")

# The files of each engine in a model directory, beside the weights. `torch-fp32` is the reference
# and needs no certificate, so no model directory names it.
ENGINE_FILES: Mapping[str, tuple[str, ...]] = {
    TORCH_BF16: (),
    ONNX_RUNTIME: _ONNX_FILES,
    OPENVINO_BF16: _OPENVINO_FILES,
    OPENVINO_INT8: _OPENVINO_FILES,
}
ENGINE_PACKAGES: Mapping[str, tuple[str, ...]] = {  # that computing with an engine imports
    ONNX_RUNTIME: ("onnxruntime",),
    OPENVINO_BF16: ("openvino",),
    OPENVINO_INT8: ("openvino",),
}
ENGINES = tuple(ENGINE_FILES)
ALL_ENGINE_FILES = (*_ONNX_FILES, *_OPENVINO_FILES)
EXACT_ENGINES = (ONNX_RUNTIME,)  # in fp32: held to parity
