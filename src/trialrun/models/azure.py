"""Reader of Azure ML designer's model directories. No code in them is imported or run.

`model_spec.yaml` names a class and its arguments. Known classes are mapped to torchvision's
networks; any other is an error. `model` is a state dict with keys that begin with `model.`. If
Azure ML designer started from pretrained weights, the additional layer `out_linear_model` maps
1,000 outputs to the classes.
"""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from torch import Tensor, nn

from trialrun.errors import InvalidModelDirectoryError, summarize_error
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, StoredModel
from trialrun.models.weights.serialization import load_exactly, parse_torch_save
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.names import AZURE_DESCRIPTION_FILE, DEFAULT_WEIGHTS, SWITCHES
from trialrun.models.zoo.networks import build_network

_FAMILIES = {
    "DenseNet": frozenset({"densenet121", "densenet161", "densenet169", "densenet201"}),
    "ResNet": frozenset(
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d "
        "wide_resnet50_2 wide_resnet101_2".split()
    ),
}
_NETWORK_PREFIX = "model."
_OUTPUT_PREFIX = "out_linear_model."
_PRETRAINED_OUTPUTS = 1000
_HALF = (0.5, 0.5, 0.5)  # Azure ML designer's mean and standard deviation of every channel
_HINT = "Give a model directory of trialrun, or a DenseNet or ResNet of Azure ML designer."


class _NetworkWithOutputLayer(nn.Module):
    """A network with 1,000 outputs, followed by Azure ML designer's linear layer."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.out_linear_model = nn.Linear(_PRETRAINED_OUTPUTS, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute (N, C) logits of (N, 3, H, W) normalised images."""
        logits: Tensor = self.out_linear_model(self.model(images))
        return logits


def read_untrained(folder: Path) -> StoredModel:
    """Read a directory as the start of a training, with its weights if it has any.

    Of a trained directory the classes are read too, and its last two layers are merged into one.

    Raises:
        InvalidModelDirectoryError: Not a DenseNet or ResNet of Azure ML designer, or damaged.
    """
    description, weights = read_description(folder)
    if weights is None or weights == DEFAULT_WEIGHTS:
        needs_default = weights is not None
        return StoredModel(folder, description, None, None, needs_default_weights=needs_default)
    path, spec = Path(weights), _read_spec(folder)
    stored = parse_torch_save(_read_bytes(path), path)
    state = {
        name.removeprefix(_NETWORK_PREFIX): tensor
        for name, tensor in stored.items()
        if name.startswith(_NETWORK_PREFIX)
    }
    if _has_output_layer(stored):
        state |= _merge_last_layers(state, stored, path)
    if spec.get("label_map_file"):
        description = replace(description, classes=_read_classes(folder, spec))
    return StoredModel(folder, description, state, None)


def read_description(folder: Path) -> tuple[ModelDescription, str | None]:
    """Read the description of a directory, and the source of its initial weights.

    The source is the path of the weights file; without that file it is `default` if the
    specification says `pretrained: true`, which in Azure means torchvision's weights; else None.

    Raises:
        InvalidModelDirectoryError: Not a DenseNet or ResNet of Azure ML designer, or damaged.
    """
    spec = _read_spec(folder)
    is_trained = bool(spec.get("label_map_file") or spec.get("inputs"))
    preprocessing = _read_preprocessing(folder, spec) if is_trained else None
    description = ModelDescription(*_read_architecture(folder, spec), preprocessing=preprocessing)
    path = _find_model_file(folder, spec)
    if path.is_file() or spec.get("label_map_file"):  # a trained model without its file is damaged
        return description, str(path)
    is_pretrained = _read_init_params(spec).get("pretrained") is True
    return description, DEFAULT_WEIGHTS if is_pretrained else None


def find_weights_file(folder: Path) -> Path:
    """Return the path of a directory's weights, which may not exist.

    Raises:
        InvalidModelDirectoryError: Not a model directory of Azure ML designer.
    """
    return _find_model_file(folder, _read_spec(folder))


def read_trained(folder: Path) -> ImageClassifier:
    """Read a trained directory as a classifier in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a DenseNet or ResNet of Azure ML designer, or untrained or
            damaged.
    """
    spec = _read_spec(folder)
    architecture, arguments = _read_architecture(folder, spec)
    classes = _read_classes(folder, spec)
    path = _find_model_file(folder, spec)
    state = parse_torch_save(_read_bytes(path), path)
    num_outputs = _PRETRAINED_OUTPUTS if _has_output_layer(state) else len(classes)
    with NoRandomValues():
        network = build_network(architecture, num_outputs, image_size=None, arguments=arguments)
    if _has_output_layer(state):
        model: nn.Module = _NetworkWithOutputLayer(network, len(classes))
        load_exactly(model, state, path)
    else:
        model = network
        load_exactly(network, _strip_prefix(state, path), path)
    return ImageClassifier(model, classes, _read_preprocessing(folder, spec)).eval()


def _merge_last_layers(
    network: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Merge the network's last layer and the output layer into one: W2 (W1 x + b1) + b2."""
    last = "classifier" if "classifier.weight" in network else "fc"
    try:
        weight, bias = (stored[_OUTPUT_PREFIX + name] for name in ("weight", "bias"))
        return {
            f"{last}.weight": weight @ network[f"{last}.weight"],
            f"{last}.bias": weight @ network[f"{last}.bias"] + bias,
        }
    except (KeyError, RuntimeError) as error:
        raise InvalidModelDirectoryError(
            f"{path}: the last two layers do not match: {summarize_error(error)}", _HINT
        ) from error


def _has_output_layer(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_OUTPUT_PREFIX) for name in state)


def _strip_prefix(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    if unknown := next((name for name in state if not name.startswith(_NETWORK_PREFIX)), None):
        raise InvalidModelDirectoryError(f"{path}: unknown tensor {unknown}", _HINT)
    return {name.removeprefix(_NETWORK_PREFIX): tensor for name, tensor in state.items()}


def _invalid_directory(folder: Path, problem: str) -> InvalidModelDirectoryError:
    return InvalidModelDirectoryError(f"{folder / AZURE_DESCRIPTION_FILE}: {problem}", _HINT)


def _read_spec(folder: Path) -> Mapping[str, Any]:
    try:
        spec = yaml.safe_load((folder / AZURE_DESCRIPTION_FILE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid_directory(folder, f"is damaged: {error}") from error
    if not isinstance(spec, dict) or not isinstance(spec.get("flavor_extras"), dict):
        raise _invalid_directory(folder, "does not describe a PyTorch image model")
    flavor = spec.get("flavor")
    if not isinstance(flavor, dict) or flavor.get("name") != "pytorch":
        raise _invalid_directory(folder, "does not describe a PyTorch model")
    return spec


def _read_architecture(folder: Path, spec: Mapping[str, Any]) -> tuple[str, dict[str, bool]]:
    init_params = _read_init_params(spec)
    family, name = str(spec["flavor_extras"].get("class")), str(init_params.get("model_name"))
    if name not in _FAMILIES.get(family, ()):
        raise _invalid_directory(folder, f"unknown network: class {family} with model {name}")
    return name, {switch: True for switch in SWITCHES if init_params.get(switch) is True}


def _read_init_params(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    init_params = spec["flavor_extras"].get("init_params")
    return init_params if isinstance(init_params, dict) else {}


def _find_model_file(folder: Path, spec: Mapping[str, Any]) -> Path:
    return _resolve_file(folder, "model_file", spec.get("model_file", "model"))


def _resolve_file(folder: Path, key: str, name: object) -> Path:
    """Return the path of a file directly in `folder`; names with a path are refused."""
    if (
        not isinstance(name, str)
        or PurePosixPath(name).name != name
        or name == ".."
        or "\0" in name
    ):
        raise _invalid_directory(folder, f"{key} {name!r} leads out of the folder")
    return folder / str(name)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidModelDirectoryError(
            f"{path} cannot be read: {error.strerror or error}", _HINT
        ) from error


def _read_classes(folder: Path, spec: Mapping[str, Any]) -> tuple[str, ...]:
    name = spec.get("label_map_file")
    if not name:
        raise _invalid_directory(folder, "has no label map: the model is not trained")
    path = _resolve_file(folder, "label_map_file", name)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(int(row[0]), row[1]) for row in list(csv.reader(file))[1:] if row]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise _invalid_directory(folder, f"{name} is damaged: {error}") from error
    num_classes = _read_init_params(spec).get("num_classes")
    if [index for index, _ in rows] != list(range(len(rows))) or num_classes != len(rows):
        raise _invalid_directory(folder, f"{len(rows)} labels for num_classes {num_classes}")
    labels = tuple(label for _, label in rows)
    if len(set(labels)) < len(labels):
        raise _invalid_directory(folder, f"{name} gives two classes the same name")
    return labels


def _read_preprocessing(folder: Path, spec: Mapping[str, Any]) -> Preprocessing:
    try:
        steps = [entry["pre_processor"] for entry in spec.get("inputs") or ()]
    except (KeyError, TypeError) as error:
        raise _invalid_directory(folder, "its inputs are damaged") from error
    if not steps:
        return Preprocessing(None, _HALF, _HALF)
    kind = steps[0].get("class") if isinstance(steps[0], dict) else steps[0]
    if kind != "ImageNormalizer":
        raise _invalid_directory(folder, f"unknown pre_processor {kind!s}")
    try:
        return Preprocessing.from_json({"image_size": None, **steps[0]["init_params"]})
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid_directory(folder, f"pre_processor is damaged: {error}") from error
