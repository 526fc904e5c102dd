"""Models to evaluate: opened, scored, and measured."""

import statistics
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from trialrun.images.scanning.scan import DatasetScan
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import find_model_folder
from trialrun.runs.evaluation.predictions import ScoredImages, predict_images
from trialrun.runs.evaluation.score import read_contents
from trialrun.scoring import move_classifier, score_images

_LATENCY_IMAGES, _WARM_UP_IMAGES = 30, 3
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True)
class Candidate:
    """An opened model and the folder that it came from."""

    folder: Path
    model: ImageClassifier

    def score(self, scan: DatasetScan) -> ScoredImages:
        """Score every image of the set."""
        return predict_images(self.model, scan)

    def compute_size_mb(self) -> float:
        """Return the size of the model's folder in megabytes (10^6 bytes)."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) / _BYTES_PER_MB

    def measure_latency_ms(self, scan: DatasetScan) -> float:
        """Return the median time from the bytes of one image to its probabilities.

        This is correct on a GPU too: `score_images` returns after the GPU has finished.
        """
        readable = (data for data in read_contents(scan.images) if data is not None)
        contents = list(islice(readable, _LATENCY_IMAGES))
        seconds = []
        for data in contents[:_WARM_UP_IMAGES] + contents:
            started = time.perf_counter()
            list(score_images(self.model, [data]))
            seconds.append(time.perf_counter() - started)
        return 1000 * statistics.median(seconds[_WARM_UP_IMAGES:] or [float("nan")])


def open_candidate(model: str, device: torch.device, *, allow_model_code: bool) -> Candidate:
    """Open the model at a URI or path on `device`.

    Raises:
        InvalidModelDirectoryError: The model cannot be opened without running its code, and
            `allow_model_code` is false.
        TrackingError: The model does not exist or cannot be downloaded.
    """
    folder = find_model_folder(model)
    return Candidate(folder, move_classifier(open_classifier(folder), device))
