"""Trialrun's model directories, trained or untrained: safetensors and JSON with checksums.

    model.json         architecture and arguments; if trained: classes in index order and
                       preprocessing; if untrained with torchvision's weights: their preprocessing
    model.safetensors  the weights; an untrained directory may have none
    engine.*           the files of the engine that model.json names, if it names one
    manifest.json      sha256 and size of all of these, and of the files in `code/`

The directory may also contain MLflow's own files, `code/`, and `data/` of MLflow's pytorch flavor;
any other file is an error. No code in the directory is run, and nothing in `data/` is read.
"""

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from trialrun.config.engines import ALL_ENGINE_FILES, ENGINE_FILES
from trialrun.errors import InvalidModelDirectoryError
from trialrun.files import format_json, translate_storage_errors, write_durably
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.abstention import Abstention
from trialrun.models.classifier import ImageClassifier
from trialrun.models.manifest import (
    CODE,
    DATA_FILES,
    MANIFEST,
    WEIGHTS,
    Entries,
    describe_content,
    invalid_directory,
    read_manifest,
    read_verified,
    verify_file,
    write_manifest,
)
from trialrun.models.weights.serialization import load_exactly, parse_safetensors
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.names import DESCRIPTION_FILE, MODEL_CARD
from trialrun.models.zoo.networks import build_network

_FORMAT = "trialrun.model/1"
PYTORCH_DATA = "data"  # where MLflow's pytorch flavor has its files
SERVED_PREFIX = "trialrun_served_"  # of the package in `code/`, followed by a hash of its sources

# MLflow adds `registered_model_meta` when it downloads a registered version.
_MLFLOW_FILES = frozenset(
    {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "registered_model_meta"}
)
# Old models have `trialrun.serving`: their copy of the code is a package named `trialrun`.
_LOADER = re.compile(rf"trialrun\.serving|{SERVED_PREFIX}[0-9a-f]{{12}}\.serving")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The contents of `model.json`; an untrained model has no `classes`.

    The `preprocessing` of an untrained model is that of its initial weights, or None if unknown.
    `engine` is the engine that the model is certified for; empty for torch in fp32. `abstention` is
    None if the model answers every image.
    """

    architecture: str
    arguments: Mapping[str, bool] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    engine: str = ""
    abstention: Abstention | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, in the order in which they are written."""
        values: dict[str, Any] = {
            "format": _FORMAT,
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
        }
        if self.classes:
            values["classes"] = list(self.classes)
        if self.preprocessing is not None:
            values["preprocessing"] = self.preprocessing.to_json()
        if self.engine:
            values["engine"] = self.engine
        if self.abstention is not None:
            values["abstention"] = self.abstention.to_json()
        return values

    @classmethod
    def from_json(cls, values: object) -> "ModelDescription":
        """Parse what `to_json` returned.

        Raises:
            ValueError: The format is another, or a value is missing or of a wrong type.
        """
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        arguments = values.get("arguments", {})
        if not isinstance(values.get("architecture"), str) or not isinstance(arguments, dict):
            raise ValueError("architecture or arguments are missing")
        if "preprocessing" not in values:
            return cls(values["architecture"], arguments)
        preprocessing = Preprocessing.from_json(values["preprocessing"])
        if "classes" not in values:
            return cls(values["architecture"], arguments, (), preprocessing)
        classes = values["classes"]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise ValueError("classes are not a list of names")
        if len(set(classes)) != len(classes) or not classes:
            raise ValueError("classes are empty or not unique")
        engine = values.get("engine", "")
        if engine and engine not in ENGINE_FILES:
            raise ValueError(f"unknown engine {engine!r}")
        abstains = "abstention" in values
        abstention = Abstention.from_json(values["abstention"]) if abstains else None
        return cls(
            values["architecture"], arguments, tuple(classes), preprocessing, engine, abstention
        )


def write_model_directory(
    folder: Path,
    description: ModelDescription,
    weights: bytes | None,
    engine_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the data files into `folder`, then their manifest.

    `engine_files` are the contents of the files of the described engine.

    Raises:
        StorageError: The folder cannot be written.
    """
    contents = {DESCRIPTION_FILE: format_json(description.to_json()).encode()}
    if weights is not None:
        contents[WEIGHTS] = weights
    contents |= engine_files or {}
    for name, data in contents.items():
        write_durably(folder / name, data)
    files = {name: describe_content(data) for name, data in contents.items()}
    write_manifest(folder, files)


def copy_data_files(source: Path, target: Path) -> None:
    """Copy the data files of a directory, and the part of its manifest that lists them.

    Raises:
        InvalidModelDirectoryError: As `read_description`; the weights are not verified.
        StorageError: `target` cannot be written.
    """
    _transfer_data_files(source, target, shutil.copyfile)


def move_data_files(source: Path, target: Path) -> None:
    """Move the data files of a directory, as `copy_data_files` copies them."""
    _transfer_data_files(source, target, shutil.move)


def _transfer_data_files(
    source: Path, target: Path, transfer: Callable[[Path, Path], object]
) -> None:
    _, manifest = _parse_description(source)
    with translate_storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in manifest:
            transfer(source / name, target / name)
    write_manifest(target, manifest)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A verified model directory, before its network is built.

    `needs_default_weights` is true if it names torchvision's weights but does not contain them.
    """

    folder: Path
    description: ModelDescription
    state: dict[str, Tensor] | None
    weights_sha256: str | None
    needs_default_weights: bool = False
    engine_files: Mapping[str, bytes] = field(default_factory=dict)

    def build_classifier(self) -> ImageClassifier:
        """Return the trained network in eval mode.

        Raises:
            InvalidModelDirectoryError: The directory is untrained, or its weights do not match its
                description.
        """
        description = self.description
        if description.preprocessing is None or not description.classes or self.state is None:
            raise InvalidModelDirectoryError(
                f"{self.folder} is not trained", "Train it: `trialrun train --model DIR`."
            )
        with NoRandomValues():
            network = build_network(
                description.architecture,
                len(description.classes),
                image_size=description.preprocessing.image_size,
                arguments=description.arguments,
            )
        load_exactly(network, self.state, self.folder / WEIGHTS)
        classifier = ImageClassifier(network, description.classes, description.preprocessing)
        return classifier.eval()


def read_model_directory(folder: Path) -> StoredModel:
    """Read and verify a directory.

    Raises:
        InvalidModelDirectoryError: Damaged, incomplete, with unknown files, or with another loader
            module.
    """
    description, manifest = _parse_description(folder)
    if WEIGHTS not in manifest:
        return StoredModel(folder, description, None, None)
    entry = manifest[WEIGHTS]
    content = read_verified(folder / WEIGHTS, entry)
    engine_files = {
        name: read_verified(folder / name, manifest[name])
        for name in ENGINE_FILES.get(description.engine, ())
    }
    state = parse_safetensors(content, folder / WEIGHTS)
    return StoredModel(folder, description, state, entry["sha256"], engine_files=engine_files)


def verify_model_directory(folder: Path) -> None:
    """Check all data files of a directory against its manifest, without parsing weights.

    Raises:
        InvalidModelDirectoryError: As `read_model_directory`.
    """
    _, manifest = _parse_description(folder)
    for name, entry in manifest.items():
        if name != DESCRIPTION_FILE:
            verify_file(folder / name, entry)


def read_description(folder: Path) -> tuple[ModelDescription, str | None]:
    """Read a directory's description, and the path of its weights or None.

    Raises:
        InvalidModelDirectoryError: As `read_model_directory`; the weights are not verified.
    """
    description, manifest = _parse_description(folder)
    return description, str(folder / WEIGHTS) if WEIGHTS in manifest else None


def read_file_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each data file of a directory according to its manifest.

    Raises:
        InvalidModelDirectoryError: As `read_description`.
    """
    _, manifest = _parse_description(folder)
    return {name: entry["sha256"] for name, entry in manifest.items()}


def _parse_description(folder: Path) -> tuple[ModelDescription, Entries]:
    _check_names(folder)
    _check_loader(folder)
    manifest = read_manifest(folder)
    path = folder / DESCRIPTION_FILE
    try:
        content = read_verified(path, manifest[DESCRIPTION_FILE])
        description = ModelDescription.from_json(json.loads(content))
    except (KeyError, ValueError, TypeError) as error:
        raise invalid_directory(path, f"is damaged: {error}") from error
    _check_engine_files(folder, description.engine, manifest.keys())
    return description, manifest


def _check_engine_files(folder: Path, engine: str, listed: Collection[str]) -> None:
    """Check that the manifest lists the files of the engine and of no other."""
    needed = set(ENGINE_FILES.get(engine, ()))
    if missing := needed - set(listed):
        raise invalid_directory(folder / min(missing), "is missing")
    if unused := set(listed).intersection(ALL_ENGINE_FILES) - needed:
        raise invalid_directory(folder / min(unused), "belongs to another engine")


def _check_names(folder: Path) -> None:
    folders = {CODE, PYTORCH_DATA}
    allowed = {*DATA_FILES, MANIFEST, MODEL_CARD, *folders, *_MLFLOW_FILES}
    for path in sorted(folder.iterdir()):
        if path.name not in allowed:
            raise invalid_directory(path, "does not belong in a model directory")
        if path.is_symlink() or (path.name not in folders and not path.is_file()):
            raise invalid_directory(path, "is not a regular file")


def format_loader_module(package: str) -> str:
    """Return the name of the module that MLflow imports to load the model."""
    return f"{package}.serving"


def _check_loader(folder: Path) -> None:
    path = folder / "MLmodel"
    if not path.is_file():
        return
    import yaml

    try:
        flavors = yaml.safe_load(path.read_text("utf-8"))["flavors"]
        loader = flavors["python_function"]["loader_module"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise invalid_directory(path, "is damaged") from error
    if not isinstance(loader, str) or not _LOADER.fullmatch(loader):
        raise invalid_directory(path, f"asks for the module {loader!s} to be imported")
