"""Time of a run besides training, and growth of its memory.

    python -m benchmarks.upkeep

One tracked run of ten epochs on photos, ResNet-18 at 224 pixels, with SQLite. Time: between the end
of an epoch and the start of the next (logging, copying the best weights, progress), and the check
of each loss, relative to the epochs' own time. Memory: resident, after each epoch.
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
from benchmarks.table import format_table, make_heading
from trialrun.engine.early_stopping import EpochStatus
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run

NUM_TRAIN, NUM_VALID, EPOCHS, BATCH_SIZE = 128, 32, 10, 16
NUM_CHECKS = 1000


class EpochRecorder(NoOpCallback):
    """Records the time of each epoch's callback, the epoch's seconds and the memory."""

    def __init__(self) -> None:
        self.callback_times: list[float] = []
        self.epoch_seconds: list[float] = []
        self.resident_mb: list[float] = []

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Record an epoch."""
        self.callback_times.append(time.perf_counter())
        self.epoch_seconds.append(status.result.epoch_seconds)
        self.resident_mb.append(read_resident_mb())


def read_resident_mb() -> float:
    """Return this process's resident memory in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def measure_check() -> float:
    """Return the seconds of one check that a loss is finite."""
    loss = torch.tensor(0.5)
    started = time.perf_counter()
    for _ in range(NUM_CHECKS):
        assert bool(loss.isfinite())
    return (time.perf_counter() - started) / NUM_CHECKS


@contextmanager
def use_scratch_store() -> Iterator[Path]:
    """Change to a temporary folder with a new tracking store and image cache."""
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        os.environ["TRIALRUN_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        yield Path(folder)


def main() -> int:
    """Measure and print the table."""
    recorder = EpochRecorder()
    with use_scratch_store() as folder:
        settings: dict[str, object] = {
            "train_data": str(write_photos(folder / "train", NUM_TRAIN, seed=1)),
            "valid_data": str(write_photos(folder / "valid", NUM_VALID, seed=2)),
            "model": "resnet18",
            "weights": None,
            "epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "patience": EPOCHS,
        }
        train_run(plan_training(settings), recorder)
    epoch_seconds = sum(recorder.epoch_seconds[1:])
    between = recorder.callback_times[-1] - recorder.callback_times[0] - epoch_seconds
    checks = measure_check() * (NUM_TRAIN // BATCH_SIZE) * (EPOCHS - 1)
    second, last = recorder.resident_mb[1], recorder.resident_mb[-1]
    rows: list[list[object]] = [
        ["between epochs, share of an epoch", "", between / epoch_seconds],
        ["checks of losses, share of an epoch", "", checks / epoch_seconds],
        ["together", "0.01", (between + checks) / epoch_seconds],
        ["resident memory after epoch 2, MB", "", f"{second:.0f}"],
        [f"growth from epoch 2 to {EPOCHS}, MB", "20", f"{last - second:.1f}"],
    ]
    title = f"Upkeep over {EPOCHS} epochs of {NUM_TRAIN} photos, ResNet-18 at 224"
    sys.stdout.write(
        make_heading(title) + "\n" + format_table(("figure", "target", "measured"), rows)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
