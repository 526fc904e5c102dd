"""Time of promotion evidence: paired bootstraps of 10,000 draws on 50,000 images, by metric.

    python -m benchmarks.registry

Each time is also given relative to a plain bootstrap of the accuracy that draws the images
themselves (200 draws, scaled up), measured in the same run.
"""

import os
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version

import numpy as np

from trialrun.config.promote import METRICS
from trialrun.report.bootstrap import Resampling
from trialrun.report.paired import compare_paired
from trialrun.report.predictions import Predictions

NUM_IMAGES, NUM_DRAWS, LIMIT_SECONDS = 50_000, 10_000, 2.0
PLAIN_DRAWS = 200
REPEATS = 3


def make_predictions(
    generator: np.random.Generator, num_classes: int
) -> tuple[Predictions, Predictions]:
    """Make two models with 90 % accuracy and independent errors, more than trained models have."""
    labels = generator.integers(0, num_classes, NUM_IMAGES)

    def make_model() -> Predictions:
        wrong = generator.integers(0, num_classes, NUM_IMAGES)
        predicted = np.where(generator.random(NUM_IMAGES) < 0.9, labels, wrong)
        names = tuple(map(str, range(num_classes)))
        return Predictions(names, labels, predicted, generator.random(NUM_IMAGES))

    return make_model(), make_model()


def measure_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the shortest time of a few calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def run_plain_bootstrap(first: Predictions, second: Predictions) -> None:
    """Bootstrap the accuracy's difference by drawing images."""
    generator = np.random.default_rng(0)
    gain = second.right.astype(np.float64) - first.right
    for _ in range(PLAIN_DRAWS):
        gain[generator.integers(0, NUM_IMAGES, NUM_IMAGES)].mean()


def main() -> None:
    """Measure and print the table."""
    print(f"{date.today()}, {os.cpu_count()} x {platform.processor() or platform.machine()}")
    print(f"numpy {version('numpy')}, scipy {version('scipy')}; load {os.getloadavg()[0]:.1f}")
    print(f"{NUM_DRAWS} draws, {NUM_IMAGES} images; target: under {LIMIT_SECONDS:g} s\n")
    print(f"{'classes':>7}  {'metric':<18} {'seconds':>8}  {'of plain':>8}")
    resampling = Resampling(draws=NUM_DRAWS)
    for num_classes in (10, 100, 1000):
        first, second = make_predictions(np.random.default_rng(num_classes), num_classes)
        plain = measure_seconds(lambda f=first, s=second: run_plain_bootstrap(f, s))  # type: ignore[misc]
        plain *= NUM_DRAWS / PLAIN_DRAWS
        for metric in METRICS:
            elapsed = measure_seconds(
                lambda m=metric, f=first, s=second: compare_paired(m, f, s, resampling)  # type: ignore[misc]
            )
            print(f"{num_classes:>7}  {metric:<18} {elapsed:>8.2f}  {elapsed / plain:>8.3f}")


if __name__ == "__main__":
    main()
