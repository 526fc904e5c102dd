"""Whether bf16 learns as fp32 does: `python -m benchmarks.precision [--epochs 5] [--images 0]`.

The digits and photos, ResNet-18, five seeds, each seed in both precisions. The difference of a
seed's two validation losses is held against how much fp32's own losses differ by seed. Where the
processor has no bf16 it is emulated: the same numbers, but slowly; --images trains on fewer.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from benchmarks.photos import write_photos
from benchmarks.table import heading, table
from trialrun.distributed import ALONE
from trialrun.engine.compute.precision import resolve_compute
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.data import PreparedData, prepare_data
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.session import resolve_rank_compute, start_session

SEEDS = range(1, 6)
T_95 = 2.776  # Student's t, two-sided 95 %, four degrees of freedom


def best_loss(plan: TrainPlan, data: PreparedData) -> float:
    """The lowest validation loss of a training, nats."""
    under_way = start_session(plan, data, resolve_rank_compute(plan), ALONE)
    return min(status.result.validation.loss for status in under_way.epochs(lambda: None))


def fewer(data: PreparedData, num_images: int) -> PreparedData:
    """The first so many training images of a permutation; all of them for 0."""
    if not num_images:
        return data
    dataset = data.train.dataset
    stride = max(len(dataset) // num_images, 1)
    some = replace(dataset, rows=dataset.rows[::stride], labels=dataset.labels[::stride])
    return replace(data, train=replace(data.train, dataset=some))


def compared(settings: dict[str, object], num_images: int) -> list[object]:
    """Mean losses of both precisions, their paired difference, and fp32's spread by seed."""
    losses: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in SEEDS:
        for precision, found in losses.items():
            plan = plan_training(settings | {"precision": precision, "random_seed": seed})
            found.append(best_loss(plan, fewer(prepare_data(plan, NoOpCallback()), num_images)))
            print(seed, precision, f"{found[-1]:.4f}", file=sys.stderr, flush=True)
    gaps = [b - a for a, b in zip(losses["fp32"], losses["bf16"], strict=True)]
    half = T_95 * stdev(gaps) / len(gaps) ** 0.5
    interval = f"{mean(gaps):+.4f} ± {half:.4f}"
    return [mean(losses["fp32"]), mean(losses["bf16"]), interval, stdev(losses["fp32"])]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=0)
    chosen = parser.parse_args()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        os.environ["TRIALRUN_CACHE"] = f"{scratch}/cache"
        photos = write_photos(Path(scratch) / "photos", 240, seed=1)
        common: dict[str, object] = {"epochs": chosen.epochs, "patience": chosen.epochs}
        jobs = {
            "digits, 32": {"train_data": "sample:digits", "learning_rate": 0.01},
            "photos, 64": {"train_data": str(photos), "image_size": 64},
        }
        for name, settings in jobs.items():
            rows.append([name, *compared(common | settings, chosen.images)])
    columns = ("data", "fp32 loss", "bf16 loss", "bf16 - fp32, 95 %", "fp32 by seed (sd)")
    emulated = "" if resolve_compute("cpu", "auto").precision == "bf16" else ", bf16 emulated"
    title = f"bf16 against fp32, ResNet-18, {len(SEEDS)} seeds, {chosen.epochs} epochs{emulated}"
    sys.stdout.write(heading(title) + "\n" + table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
