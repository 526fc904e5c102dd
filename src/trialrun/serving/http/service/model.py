"""The model that the server computes: opening of a version, with its certified engine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from trialrun.config.engines import TORCH_FP32
from trialrun.config.serve import TORCH_ENGINE, ServeConfig
from trialrun.engine.compute.device import find_device
from trialrun.models.open import open_classifier
from trialrun.scoring.labels import read_threshold
from trialrun.scoring.network import ScoringNetwork, make_sample, prepare_network
from trialrun.scoring.open import open_network

if TYPE_CHECKING:
    from mlflow.models import Model

_logger = logging.getLogger("trialrun.serve")
_WARM_UP_SIZES = (1, 2, 8)  # images per batch


@dataclass(frozen=True, slots=True, eq=False)
class OpenModel:
    """A network that is ready to compute, and what identifies it.

    `version` is empty for a model that is not a registered version. Below the confidence
    `threshold` the model abstains. `read_metadata` returns the contents of MLmodel, which
    `/invocations` needs; its first call imports mlflow.
    """

    name: str
    version: str
    network: ScoringNetwork
    read_metadata: "Callable[[], Model]"
    threshold: float = 0.0

    @property
    def engine(self) -> str:
        """The engine that computes."""
        return str(getattr(self.network, "engine", TORCH_FP32))


class ModelSource(Protocol):
    """Where the server's models come from; its methods are called in any thread."""

    @property
    def address(self) -> str:
        """MODEL of the command line."""

    def find_version(self) -> str:
        """Return the version that the address names now; empty if it names none.

        Raises:
            TrialrunError: The registry does not answer, or the alias does not exist.
        """

    def open(self) -> OpenModel:
        """Open the model that the address names now.

        Raises:
            TrialrunError: The model cannot be found, is damaged, or the device is missing.
        """


def open_folder(folder: Path, name: str, version: str, config: ServeConfig) -> OpenModel:
    """Open the model in a folder and compute a few images.

    Raises:
        InvalidModelDirectoryError: Not a model directory, not trained, or damaged.
        InvalidParameterError: This machine does not have the device.
        OutOfMemoryError: The network does not fit in the device's memory.
    """
    device = find_device(config.device)
    if config.engine == TORCH_ENGINE:
        network = prepare_network(open_classifier(folder), device)
    else:
        network = open_network(folder, device, _logger.warning)
    _warm_up(network)
    read_metadata = cache(partial(_read_metadata, folder, network.classes))
    return OpenModel(name, version, network, read_metadata, read_threshold(folder))


def _warm_up(network: ScoringNetwork) -> None:
    """Compute random images, so that the first request does not wait for memory and plans."""
    size = make_sample(network.preprocessing).shape[-1]
    for num_images in _WARM_UP_SIZES:
        network.compute_probabilities(torch.zeros(num_images, 3, size, size, dtype=torch.uint8))


def _read_metadata(folder: Path, classes: tuple[str, ...]) -> "Model":
    """Return the contents of MLmodel, or what trialrun would write for a folder without one."""
    from mlflow.models import Model

    from trialrun.serving.package import build_signature

    if (folder / "MLmodel").is_file():
        metadata: Model = Model.load(str(folder / "MLmodel"))
        return metadata
    return Model(signature=build_signature(classes))
