"""The network of a model directory, computed by the engine that the model is certified for."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from trialrun.config.engines import TORCH_BF16
from trialrun.errors import InvalidParameterError
from trialrun.models import directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import StoredModel
from trialrun.models.open import open_classifier
from trialrun.models.zoo.names import DESCRIPTION_FILE
from trialrun.scoring.engines.runtime import EngineNetwork
from trialrun.scoring.network import ScoringNetwork, prepare_bf16_network, prepare_network


def open_network(folder: Path, device: torch.device, note: Callable[[str], None]) -> ScoringNetwork:
    """Open the model in `folder` on `device`, with the engine that it is certified for.

    Engines compute on a CPU. On another device, or where the engine's package is missing, torch
    computes in fp32. `note` receives which engine computes, if the model names one.

    Raises:
        InvalidModelDirectoryError: Not a model directory, not trained, or damaged.
        OutOfMemoryError: The network does not fit in the device's memory.
    """
    if not (folder / DESCRIPTION_FILE).is_file():
        return prepare_network(open_classifier(folder), device)
    stored = directory.read_model_directory(folder)
    engine = stored.description.engine
    if not engine:
        return prepare_network(stored.build_classifier(), device)
    if device.type != "cpu":
        note(f"torch computes in fp32: the model's engine {engine} computes on a CPU")
        return prepare_network(stored.build_classifier(), device)
    try:
        network = _open_engine(stored)
    except InvalidParameterError as error:
        note(f"torch computes in fp32 instead: {error}. {error.hint}")
        return prepare_network(stored.build_classifier(), device)
    note(f"the engine {engine} computes, for which the model is certified")
    return network


def _open_engine(stored: StoredModel) -> ScoringNetwork:
    classifier = stored.build_classifier()
    return make_engine(stored.description.engine, classifier, stored.engine_files)


def make_engine(
    engine: str, classifier: ImageClassifier, files: Mapping[str, bytes]
) -> ScoringNetwork:
    """Return a classifier's network, computed by `engine` from its files.

    Raises:
        InvalidParameterError: The engine's package is not installed.
        InvalidModelDirectoryError: The engine cannot load the files.
    """
    if engine == TORCH_BF16:
        return prepare_bf16_network(classifier)
    return EngineNetwork(engine, files, classifier.classes, classifier.preprocessing)
