"""Time of promotion evidence: paired comparisons and intervals on 50,000 images, by metric.

python -m benchmarks.registry
"""

import time
from collections.abc import Callable

import numpy as np

from benchmarks.table import format_table, make_heading
from trialrun.config.promote import METRICS
from trialrun.report.intervals import compute_interval
from trialrun.report.paired import compare_paired
from trialrun.report.predictions import Predictions

NUM_IMAGES = 50_000
REPEATS = 5


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


def measure_milliseconds(work: Callable[[], object]) -> float:
    """Return the shortest time of a few calls."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def main() -> None:
    """Measure and print the table."""
    print(make_heading(f"Promotion evidence on {NUM_IMAGES} images, milliseconds"))
    rows = []
    for num_classes in (10, 100, 1000):
        first, second = make_predictions(np.random.default_rng(num_classes), num_classes)
        for metric in METRICS:
            compared = measure_milliseconds(
                lambda m=metric, f=first, s=second: compare_paired(m, f, s)  # type: ignore[misc]
            )
            interval = measure_milliseconds(
                lambda m=metric, f=first: compute_interval(m, f)  # type: ignore[misc]
            )
            rows.append((num_classes, metric, compared, interval))
    print(format_table(("classes", "metric", "comparison", "interval"), rows))


if __name__ == "__main__":
    main()
