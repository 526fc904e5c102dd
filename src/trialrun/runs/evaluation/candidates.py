"""Models to evaluate: opened, scored, and measured."""

import statistics
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.images.scanning.scan import DatasetScan
from trialrun.registry.pins import find_pinned_folder
from trialrun.runs.evaluation.predictions import predict_images
from trialrun.runs.scoring.images import read_contents
from trialrun.scoring.labels import read_threshold
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.open import open_network
from trialrun.scoring.pipeline import score_images
from trialrun.scoring.scores import ScoredImages
from trialrun.serving.foreign import (
    ForeignModel,
    check_code_allowed,
    is_trialrun_model,
    open_foreign_model,
)

_LATENCY_IMAGES, _WARM_UP_IMAGES = 30, 3
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True)
class Candidate:
    """An opened model, the folder that it came from, and notes about it for the user."""

    folder: Path
    model: ScoringNetwork | ForeignModel
    notes: tuple[str, ...] = ()

    def score(self, scan: DatasetScan) -> tuple[ScoredImages, PerceptualHashes | None]:
        """Score every image of the set; return the scores and the perceptual hashes.

        The hashes are None if the model is foreign: it gets the images in its own size.

        Raises:
            InvalidModelDirectoryError: The code of a foreign model fails, or its answers cannot be
                used.
        """
        if isinstance(self.model, ForeignModel):
            return self.model.score_images(read_contents(scan.images)), None
        return predict_images(self.model, scan)

    def read_threshold(self) -> float:
        """Return the confidence from which the model answers; 0 if it always does."""
        return 0.0 if isinstance(self.model, ForeignModel) else read_threshold(self.folder)

    def compute_size_mb(self) -> float:
        """Return the size of the model's folder in megabytes (10^6 bytes)."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) / _BYTES_PER_MB

    def measure_latency_ms(self, scan: DatasetScan) -> float:
        """Return the median time from the bytes of one image to its probabilities.

        This is correct on a GPU too: scoring returns after the GPU has finished.
        """
        readable = (data for data in read_contents(scan.images) if data is not None)
        contents = list(islice(readable, _LATENCY_IMAGES))
        seconds = []
        for data in contents[:_WARM_UP_IMAGES] + contents:
            started = time.perf_counter()
            self._score_image(data)
            seconds.append(time.perf_counter() - started)
        return 1000 * statistics.median(seconds[_WARM_UP_IMAGES:] or [float("nan")])

    def _score_image(self, data: bytes) -> None:
        if isinstance(self.model, ForeignModel):
            self.model.score_images([data])
        else:
            list(score_images(self.model, [data]))


def open_candidate(
    model: str, device: torch.device, *, allow_model_code: bool, sha256: str | None = None
) -> Candidate:
    """Open the model at a URI or path on `device`.

    Raises:
        InvalidModelDirectoryError: The model is damaged, or it cannot be opened without running its
            code and `allow_model_code` is false.
        TrackingError: The model does not exist or cannot be downloaded.
    """
    folder = find_pinned_folder(model, sha256)
    if is_trialrun_model(folder):
        notes: list[str] = []
        network = open_network(folder, device, notes.append)
        return Candidate(folder, network, tuple(f"{model}: {note}" for note in notes))
    check_code_allowed(folder, name=model, is_allowed=allow_model_code)
    foreign = open_foreign_model(folder, name=model, device=device)
    return Candidate(folder, foreign, foreign.notes)


def describe_scores(name: str, candidate: Candidate, scored: ScoredImages) -> list[str]:
    """Return what the user should know of a foreign model: its notes, and missing probabilities."""
    notes = list(candidate.notes)
    if not scored.has_probabilities:
        notes.append(f"{name} returns only labels: its log_loss counts each label as certain")
    return notes
