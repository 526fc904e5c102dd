"""What evidence costs: paired bootstraps of 10,000 draws on 50,000 images, by metric.

    python -m benchmarks.registry

Beside each time stands its ratio to one plain bootstrap of the accuracy by drawing the images
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


def answers(generator: np.random.Generator, num_classes: int) -> tuple[Predictions, Predictions]:
    """Two models of 90% that err independently: more disagreement than two trainings have."""
    labels = generator.integers(0, num_classes, NUM_IMAGES)

    def model() -> Predictions:
        wrong = generator.integers(0, num_classes, NUM_IMAGES)
        predicted = np.where(generator.random(NUM_IMAGES) < 0.9, labels, wrong)
        names = tuple(map(str, range(num_classes)))
        return Predictions(names, labels, predicted, generator.random(NUM_IMAGES))

    return model(), model()


def seconds_of(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The shortest of a few runs."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def plain_bootstrap(first: Predictions, second: Predictions) -> None:
    """The accuracy's difference by drawing images."""
    generator = np.random.default_rng(0)
    gain = second.right.astype(np.float64) - first.right
    for _ in range(PLAIN_DRAWS):
        gain[generator.integers(0, NUM_IMAGES, NUM_IMAGES)].mean()


def main() -> None:
    """Print the table."""
    print(f"{date.today()}, {os.cpu_count()} x {platform.processor() or platform.machine()}")
    print(f"numpy {version('numpy')}, scipy {version('scipy')}; load {os.getloadavg()[0]:.1f}")
    print(f"{NUM_DRAWS} draws, {NUM_IMAGES} images; wanted: under {LIMIT_SECONDS:g} s\n")
    print(f"{'classes':>7}  {'metric':<18} {'seconds':>8}  {'of plain':>8}")
    resampling = Resampling(draws=NUM_DRAWS)
    for num_classes in (10, 100, 1000):
        first, second = answers(np.random.default_rng(num_classes), num_classes)
        plain = seconds_of(lambda f=first, s=second: plain_bootstrap(f, s))  # type: ignore[misc]
        plain *= NUM_DRAWS / PLAIN_DRAWS
        for metric in METRICS:
            taken = seconds_of(
                lambda m=metric, f=first, s=second: compare_paired(m, f, s, resampling)  # type: ignore[misc]
            )
            print(f"{num_classes:>7}  {metric:<18} {taken:>8.2f}  {taken / plain:>8.3f}")


if __name__ == "__main__":
    main()
