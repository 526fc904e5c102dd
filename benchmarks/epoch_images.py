"""Time that a training takes for the pictures of an epoch in MLflow's image grid.

    python -m benchmarks.epoch_images

Trains on the digits at two sizes, and measures the calls that draw and store the pictures: the
median of the epochs after the first, which loads the font.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.table import format_table, make_heading

EPOCHS = 3
SETTINGS: dict[str, Any] = {
    "train_data": "sample:digits",
    "model": "shufflenet_v2_x0_5",
    "epochs": EPOCHS,
    "patience": EPOCHS,
    "batch_size": 64,
}
CASES = (("none", 32), ("standard", 32), ("standard", 96))


def measure_shares(augment: str, image_size: int) -> tuple[float, float]:
    """Return the milliseconds per epoch for the pictures, and their share of an epoch."""
    import trialrun
    from trialrun.runs.training import execution as module

    execution: Any = module
    log_epoch_images = execution.log_epoch_images
    spent: list[tuple[float, float]] = []

    def log_timed(run: Any, plan: Any, data: Any, status: Any, timestamp_ms: int) -> None:
        started = time.perf_counter()
        log_epoch_images(run, plan, data, status, timestamp_ms)
        spent.append((time.perf_counter() - started, status.result.epoch_seconds))

    execution.log_epoch_images = log_timed
    try:
        trialrun.train(**{**SETTINGS, "augment": augment, "image_size": image_size})
    finally:
        execution.log_epoch_images = log_epoch_images
    seconds, epoch_seconds = (statistics.median(column) for column in zip(*spent[1:], strict=True))
    return 1000 * seconds, seconds / epoch_seconds


def main() -> int:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path(folder) / 'mlflow.db'}"
        os.chdir(folder)
        rows: list[list[object]] = []
        for augment, image_size in CASES:
            milliseconds, share = measure_shares(augment, image_size)
            rows.append([augment, image_size, round(milliseconds), f"{share:.1%}"])
    columns = ("augment", "pixels", "ms per epoch", "of an epoch")
    sys.stdout.write(make_heading("Pictures of an epoch") + "\n" + format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
