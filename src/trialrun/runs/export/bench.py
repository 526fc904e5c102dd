"""Comparison of all engines on this machine: their speed and the classes that they change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from trialrun.config.engines import TORCH_FP32
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.runs.export.candidates import (
    EngineCandidate,
    EngineSpeed,
    build_candidates,
    choose_engines,
    measure_speeds,
    open_source_model,
)
from trialrun.runs.export.images import sample_files
from trialrun.scoring.network import TorchNetwork, prepare_network
from trialrun.scoring.parity import compute_all, decode_images, draw_image

_FOLDED = "torch-fp32 folded"
_CPU = torch.device("cpu")
_NUM_DRAWN = 32


@dataclass(frozen=True, slots=True)
class BenchRow:
    """The speed of an engine, and how many of the images it assigns to another class."""

    engine: str
    speed: EngineSpeed | None
    flips: int | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        speed = self.speed.to_json() if self.speed else {}
        return {"engine": self.engine, **speed, "flips": self.flips, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One row per engine, and the number of images that were compared."""

    rows: tuple[BenchRow, ...]
    num_images: int


@isolate_torch_state()
def bench_model(
    model: str, data: str | None, num_images: int, note: Callable[[str], None]
) -> BenchResult:
    """Build and time every engine of a model; without `data`, random images are drawn.

    Raises:
        TrialrunError: The model or the images cannot be used.
    """
    classifier = open_source_model(model).build_classifier()
    files = sample_files(data, num_images) if data else [*map(draw_image, range(_NUM_DRAWN))]
    engines = choose_engines("auto", has_calibration=True)
    candidates = [
        EngineCandidate(_FOLDED, {}, prepare_network(classifier, _CPU)),
        *build_candidates(classifier, engines, files, note),
    ]
    speeds = measure_speeds(classifier, candidates, files)
    images = decode_images(classifier.preprocessing, files)
    expected = compute_all(TorchNetwork(classifier, _CPU), images).argmax(axis=1)
    rows = [BenchRow(TORCH_FP32, speeds[TORCH_FP32], 0)]
    for item in candidates:
        flips = None
        if item.network is not None:
            flips = int((compute_all(item.network, images).argmax(axis=1) != expected).sum())
        rows.append(BenchRow(item.engine, speeds.get(item.engine), flips, item.problem))
    return BenchResult(tuple(rows), len(images))
