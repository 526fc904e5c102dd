"""What a run does beside learning, and whether its memory grows: `python -m benchmarks.upkeep`.

One tracked run of ten epochs on photos, ResNet-18 at 224 pixels, with SQLite. Time: what passes
between an epoch's end and the next one's begin (records, the best weights' copy, progress), and the
check of each loss, over the epochs' own time. Memory: resident, after each epoch.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.photos import write_photos
from benchmarks.table import heading, table
from trialrun.engine.early_stopping import EpochStatus
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run

NUM_TRAIN, NUM_VALID, EPOCHS, BATCH_SIZE = 128, 32, 10, 16
NUM_CHECKS = 1000


class Watch(NoOpCallback):
    """Notes when each epoch was told of, how long it took, and the memory then."""

    def __init__(self) -> None:
        self.told: list[float] = []
        self.epoch_seconds: list[float] = []
        self.resident_mb: list[float] = []

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Note an epoch."""
        self.told.append(time.perf_counter())
        self.epoch_seconds.append(status.result.epoch_seconds)
        self.resident_mb.append(resident_mb())


def resident_mb() -> float:
    """What this process holds in memory, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def check_seconds() -> float:
    """What one step's look at its loss takes."""
    loss = torch.tensor(0.5)
    began = time.perf_counter()
    for _ in range(NUM_CHECKS):
        assert bool(loss.isfinite())
    return (time.perf_counter() - began) / NUM_CHECKS


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a store and a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.environ["TRIALRUN_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        yield Path(folder)


def main() -> int:
    """Measure and print."""
    watch = Watch()
    with scratch() as folder:
        settings: dict[str, object] = {
            "train_data": str(write_photos(folder / "train", NUM_TRAIN, seed=1)),
            "valid_data": str(write_photos(folder / "valid", NUM_VALID, seed=2)),
            "model": "resnet18",
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "patience": EPOCHS,
        }
        train_run(plan_training(settings), watch)
    later = sum(watch.epoch_seconds[1:])
    beside = watch.told[-1] - watch.told[0] - later
    checks = check_seconds() * (NUM_TRAIN // BATCH_SIZE) * (EPOCHS - 1)
    second, last = watch.resident_mb[1], watch.resident_mb[-1]
    rows: list[list[object]] = [
        ["between epochs, share of an epoch", "", beside / later],
        ["checks of losses, share of an epoch", "", checks / later],
        ["together", "0.01", (beside + checks) / later],
        ["resident memory after epoch 2, MB", "", f"{second:.0f}"],
        [f"growth from epoch 2 to {EPOCHS}, MB", "20", f"{last - second:.1f}"],
    ]
    title = f"Upkeep over {EPOCHS} epochs of {NUM_TRAIN} photos, ResNet-18 at 224"
    sys.stdout.write(heading(title) + "\n" + table(("figure", "asked", "measured"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
