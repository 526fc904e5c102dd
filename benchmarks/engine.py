"""Our training images/s over what the machine does with the data already in memory.

The limit is a bare loop over one batch that stays where it is: the fastest of fp32 and bf16, plain
and channels-last layout, with the allocator's settings. Ours is `engine.fit` out of a pack, with
loading and checks. Both run in turn in one process; the ratio is the median over the rounds.

    python -m benchmarks.engine [--rounds 3] [--device cpu] [--quick]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.photos import write_photos
from benchmarks.table import heading, table
from trialrun.config import TrainConfig
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.engine.fit import fit
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import init_train_state
from trialrun.image_cache import open_pack
from trialrun.images import label_indices, open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.models.zoo import build_network, find_head_prefix

NUM_CLASSES = 2
CASES = (("resnet18", 224), ("resnet50", 224), ("densenet121", 224), ("resnet18", 64))


@dataclass(frozen=True, slots=True)
class Case:
    """One network at one size, and how many steps are long enough to measure."""

    model: str
    size: int
    batch_size: int
    steps: int


def resident_step(
    case: Case, compute: ComputeConfig, network: nn.Module | None = None
) -> Callable[[], None]:
    """A step of a bare loop on a batch that stays in memory; `network` is a new one by default."""
    torch.manual_seed(0)
    network = network or build_network(case.model, NUM_CLASSES, image_size=case.size)
    network.to(compute.device).to(memory_format=compute.memory_format).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    )
    images = torch.randn(case.batch_size, 3, case.size, case.size, device=compute.device)
    images = images.contiguous(memory_format=compute.memory_format)
    labels = torch.randint(0, NUM_CLASSES, (case.batch_size,), device=compute.device)

    def step() -> None:
        with compute.autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def images_per_second(step: Callable[[], None], case: Case, device: torch.device) -> float:
    """The rate of so many steps, one more before them uncounted."""
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(case.steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return case.batch_size * case.steps / (time.perf_counter() - started)


def fastest(case: Case, device: torch.device) -> ComputeConfig:
    """Of the four choices the one with the highest rate.

    Small batches leave out those that are hopeless first: a step in emulated bf16 takes minutes.
    """
    choices = [
        ComputeConfig(device, precision, layout)
        for precision in ("fp32", "bf16")
        for layout in ("NCHW", "NHWC")
    ]
    small = replace(case, batch_size=4, steps=2)
    rates = [images_per_second(resident_step(small, each), small, device) for each in choices]
    promising = [each for each, rate in zip(choices, rates, strict=True) if rate > 0.5 * max(rates)]
    short = replace(case, steps=max(case.steps // 4, 2))
    rates = [images_per_second(resident_step(short, each), short, device) for each in promising]
    return promising[rates.index(max(rates))]


def our_rate(case: Case, data: ImageDataset, compute: ComputeConfig) -> float:
    """The rate that a run would record for its second epoch."""
    config = TrainConfig(epochs=2, batch_size=case.batch_size)
    valid = ImageDataset(data.source, data.rows[:2], data.labels[:2])
    task = TrainingData(data, valid, NUM_CLASSES, Preprocessing(case.size))
    torch.manual_seed(0)
    network = build_network(case.model, NUM_CLASSES, image_size=case.size)
    state = init_train_state(network, find_head_prefix(network), task, config, compute)
    return list(fit(state, config))[-1].train_images_per_second


def packed(case: Case, photos: Path, cache: Path) -> ImageDataset:
    """So many photos out of a pack that an epoch has the case's number of steps."""
    images = open_data(str(photos), cache)
    pack = open_pack(
        scan_files(images, threads=2),
        Preprocessing(case.size),
        cache,
        threads=2,
        limit_bytes=1 << 40,
    )
    rows = np.arange(case.steps * case.batch_size) % len(images)
    labels = np.asarray(label_indices(images.items, images.classes))
    return ImageDataset(pack, rows, labels[rows])


def measured(
    case: Case, photos: Path, cache: Path, device: torch.device, rounds: int
) -> list[object]:
    """One row of the table."""
    data = packed(case, photos, cache)
    ours = resolve_compute(str(device), "auto")
    best = fastest(case, device)
    pairs = []
    for _ in range(rounds):
        limit = images_per_second(resident_step(case, best), case, device)
        pairs.append((our_rate(case, data, ours), limit))
    ratio = statistics.median(rate / limit for rate, limit in pairs)
    rate = statistics.median(rate for rate, _ in pairs)
    limit = statistics.median(limit for _, limit in pairs)
    chosen = f"{best.precision} {best.layout}"
    return [case.model, case.size, case.batch_size, ours.precision, rate, chosen, limit, ratio]


def main() -> int:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--quick", action="store_true", help="the two ResNet-18 alone")
    chosen = arguments.parse_args()
    keep_freed_memory()
    device = resolve_compute(chosen.device, "fp32").device
    on_gpu = device.type == "cuda"
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = write_photos(Path(scratch) / "photos", 64, seed=1)
        for model, size in CASES:
            if chosen.quick and model != "resnet18":
                continue
            steps = 60 if on_gpu else (40 if size < 224 else 8)
            case = Case(model, size, 256 if on_gpu else 16, steps)
            rows.append(measured(case, photos, Path(scratch) / "packs", device, chosen.rounds))
    columns = ("model", "pixels", "batch", "ours", "images/s", "limit's", "limit", "ratio")
    sys.stdout.write(heading("Training out of a pack over the resident-data limit"))
    sys.stdout.write("\n" + table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
