"""Engines of a model: built, timed side by side, and compared with torch in fp32."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trialrun.config.engines import ENGINES, OPENVINO_INT8, TORCH_FP32
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.models import directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import StoredModel
from trialrun.models.zoo.names import DESCRIPTION_FILE
from trialrun.registry import find_model_folder
from trialrun.runs.export.images import make_batch
from trialrun.scoring.engines.build import build_engine
from trialrun.scoring.network import ScoringNetwork, TorchNetwork
from trialrun.scoring.open import make_engine
from trialrun.scoring.parity import decode_images

BATCH_SIZE = 16
_ROUNDS, _WARM_UP_ROUNDS = 7, 2
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """An engine with its files and its network; without a network, `problem` says why."""

    engine: str
    files: Mapping[str, bytes]
    network: ScoringNetwork | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """Images per second in batches of 16 and one by one, and the ratio to torch in fp32."""

    images_per_second: float
    single_images_per_second: float
    speedup: float
    single_speedup: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values, rounded to four digits."""
        return {name: float(f"{getattr(self, name):.4g}") for name in self.__slots__}


def open_source_model(model: str) -> StoredModel:
    """Read the model to export.

    Raises:
        InvalidModelDirectoryError: Not a model directory of trialrun, or damaged.
    """
    folder: Path = find_model_folder(model)
    if not (folder / DESCRIPTION_FILE).is_file():
        raise InvalidModelDirectoryError(
            f"{model} is not a model directory of trialrun", "Only those can name an engine."
        )
    return directory.read_model_directory(folder)


def build_candidates(
    classifier: ImageClassifier,
    engines: Sequence[str],
    calibration: Sequence[bytes],
    note: Callable[[str], None],
) -> list[EngineCandidate]:
    """Build each engine; one that cannot be built has the reason as its problem."""
    images = decode_images(classifier.preprocessing, calibration)
    candidates = []
    for engine in engines:
        note(f"building {engine}")
        candidates.append(build_candidate(classifier, engine, images))
    return candidates


def build_candidate(
    classifier: ImageClassifier, engine: str, calibration: Sequence[Tensor]
) -> EngineCandidate:
    """Build one engine."""
    try:
        files = build_engine(engine, classifier, calibration)
        return EngineCandidate(engine, files, make_engine(engine, classifier, files))
    except (InvalidParameterError, InvalidModelDirectoryError) as error:
        return EngineCandidate(engine, {}, None, f"{error}. {error.hint}")


def choose_engines(engine: str, has_calibration: bool) -> tuple[str, ...]:
    """Return the engines to try for the setting `engine`.

    Raises:
        InvalidParameterError: int8 is asked for without images to calibrate it.
    """
    if engine == "auto":
        return tuple(name for name in ENGINES if has_calibration or name != OPENVINO_INT8)
    if engine == OPENVINO_INT8 and not has_calibration:
        raise InvalidParameterError(
            f"engine={engine} needs images for its calibration", "Give them with --data."
        )
    return (engine,)


def measure_speeds(
    classifier: ImageClassifier, candidates: Sequence[EngineCandidate], files: Sequence[bytes]
) -> dict[str, EngineSpeed]:
    """Return the speed of torch in fp32 without any folding, and of each engine, by name.

    All take turns, so that other programs on the machine slow them down equally.
    """
    networks: dict[str, ScoringNetwork] = {TORCH_FP32: TorchNetwork(classifier, _CPU)}
    networks |= {item.engine: item.network for item in candidates if item.network is not None}
    rates = {}
    for size in (BATCH_SIZE, 1):
        batch = make_batch(classifier.preprocessing, files, size)
        rates[size] = _measure_rates(networks, batch)
    reference = {size: rates[size][TORCH_FP32] for size in rates}
    return {
        name: EngineSpeed(
            rates[BATCH_SIZE][name],
            rates[1][name],
            rates[BATCH_SIZE][name] / reference[BATCH_SIZE],
            rates[1][name] / reference[1],
        )
        for name in networks
    }


def _measure_rates(networks: Mapping[str, ScoringNetwork], batch: Tensor) -> dict[str, float]:
    """Return images per second of each network: the median of rounds in which all compute."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(_WARM_UP_ROUNDS + _ROUNDS):
        for name, network in networks.items():
            started = time.perf_counter()
            network.compute_probabilities(batch)
            seconds[name].append(time.perf_counter() - started)
    return {
        name: len(batch) / statistics.median(values[_WARM_UP_ROUNDS:])
        for name, values in seconds.items()
    }
