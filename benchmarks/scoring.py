"""Scoring speed from JPEG bytes to probabilities, relative to the network alone.

    python -m benchmarks.scoring [--rounds 3]

The limit is a bare forward pass over one batch that stays in memory, in the faster memory layout.
Ours is `scoring.pipeline.score_images` on JPEG bytes: decoding, resizing, normalization and the
network.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo import build_network
from trialrun.scoring.network import prepare_network
from trialrun.scoring.pipeline import score_images

MODELS = ("resnet18", "resnet50", "densenet121", "mobilenet_v3_small")
NUM_PHOTOS, BATCH_SIZE, SIZE = 256, 32, 224
CLASSES = ("china", "flower")


def measure_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_limit(model: str) -> float:
    """Return images per second of the network alone."""
    rates = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = (
            build_network(model, len(CLASSES), image_size=SIZE).eval().to(memory_format=layout)
        )
        images = torch.randn(BATCH_SIZE, 3, SIZE, SIZE).contiguous(memory_format=layout)
        with torch.inference_mode():
            network(images)
            elapsed = [measure_seconds(lambda: network(images)) for _ in range(8)]  # noqa: B023 - at once
        rates.append(BATCH_SIZE / statistics.median(elapsed))
    return max(rates)


def measure_ours(model: str, files: list[bytes]) -> float:
    """Return images per second of scoring."""
    network = build_network(model, len(CLASSES), image_size=SIZE).eval()
    classifier = ImageClassifier(network, CLASSES, Preprocessing(SIZE)).eval()
    scorer = prepare_network(classifier, torch.device("cpu"))
    list(score_images(scorer, files[:BATCH_SIZE]))
    return len(files) / measure_seconds(lambda: list(score_images(scorer, files)))


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = write_photos(Path(scratch), NUM_PHOTOS, seed=1)
        files = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    for model in MODELS:
        pairs = [
            (measure_ours(model, files), measure_limit(model)) for _ in range(arguments.rounds)
        ]
        rate, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append([model, rate, limit, statistics.median(a / b for a, b in pairs)])
    columns = ("model", "ours, images/s", "network alone", "ratio")
    sys.stdout.write(
        make_heading(f"Scoring {NUM_PHOTOS} photos at {SIZE}") + "\n" + format_table(columns, rows)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
