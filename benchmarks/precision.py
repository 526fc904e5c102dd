"""Validation loss in bf16 against fp32.

    python -m benchmarks.precision [--epochs 5] [--images 0]

The digits and photos, ResNet-18, five seeds, each seed in both precisions. The mean difference of
a seed's two validation losses is compared with the spread of fp32's losses between seeds. Without
bf16 in hardware it is emulated: the same numbers, but slowly; --images trains on fewer images.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.compute.precision import resolve_compute
from trialrun.engine.early_stopping import EarlyStopping
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.session import resolve_rank_compute, start_session

SEEDS = range(1, 6)
T_95 = 2.776  # Student's t, two-sided 95 %, four degrees of freedom


def find_best_loss(plan: TrainPlan, data: PreparedData) -> float:
    """Train and return the lowest validation loss in nats."""
    session = start_session(plan, data, resolve_rank_compute(plan), SINGLE_PROCESS)
    epochs = session.epochs(EarlyStopping(plan.config))
    return min(status.result.validation.loss for status in epochs)


def limit_images(data: PreparedData, num_images: int) -> PreparedData:
    """Keep about `num_images` training images, evenly spaced; 0 keeps all."""
    if not num_images:
        return data
    dataset = data.train.dataset
    stride = max(len(dataset) // num_images, 1)
    subset = replace(dataset, rows=dataset.rows[::stride], labels=dataset.labels[::stride])
    return replace(data, train=replace(data.train, dataset=subset))


def compare_precisions(settings: dict[str, object], num_images: int) -> list[object]:
    """Return the mean losses, their paired difference and fp32's standard deviation over seeds."""
    losses: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in SEEDS:
        for precision, seed_losses in losses.items():
            plan = plan_training(settings | {"precision": precision, "random_seed": seed})
            seed_losses.append(
                find_best_loss(plan, limit_images(prepare_data(plan, NoOpCallback()), num_images))
            )
            print(seed, precision, f"{seed_losses[-1]:.4f}", file=sys.stderr, flush=True)
    gaps = [b - a for a, b in zip(losses["fp32"], losses["bf16"], strict=True)]
    half = T_95 * stdev(gaps) / len(gaps) ** 0.5
    interval = f"{mean(gaps):+.4f} ± {half:.4f}"
    return [mean(losses["fp32"]), mean(losses["bf16"]), interval, stdev(losses["fp32"])]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=0)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        os.environ["TRIALRUN_CACHE"] = f"{scratch}/cache"
        photos = write_photos(Path(scratch) / "photos", 240, seed=1)
        common: dict[str, object] = {"epochs": arguments.epochs, "patience": arguments.epochs}
        jobs = {
            "digits, 32": {"train_data": "sample:digits", "learning_rate": 0.01},
            "photos, 64": {"train_data": str(photos), "image_size": 64},
        }
        for name, settings in jobs.items():
            rows.append([name, *compare_precisions(common | settings, arguments.images)])
    columns = ("data", "fp32 loss", "bf16 loss", "bf16 - fp32, 95 %", "fp32 by seed (sd)")
    emulated = "" if resolve_compute("cpu", "auto").precision == "bf16" else ", bf16 emulated"
    title = f"bf16 against fp32, ResNet-18, {len(SEEDS)} seeds, {arguments.epochs} epochs{emulated}"
    sys.stdout.write(make_heading(title) + "\n" + format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
