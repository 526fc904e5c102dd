"""Training speed relative to a bare loop on data that is already in memory.

The limit is a bare training loop on one batch that stays in memory, in the fastest of fp32 and
bf16, NCHW and NHWC, with the allocator's settings. Ours is `engine.fit` on cached images, with
loading and checks. Both run alternately in one process; the ratio is the median over the rounds.

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
from benchmarks.table import format_table, make_heading
from trialrun.config import TrainConfig
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.kernels import adapt_to_small_maps, list_adaptable
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.engine.eager_optimizers import EagerSGD
from trialrun.engine.fit import fit
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import init_train_state
from trialrun.image_cache import open_pack
from trialrun.images import label_indices, open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.models.zoo.networks import build_network, find_head_prefix

NUM_CLASSES = 2
CASES = (("resnet18", 224), ("resnet50", 224), ("densenet121", 224), ("resnet18", 64))


@dataclass(frozen=True, slots=True)
class Case:
    """One network at one image size, and the number of steps to measure."""

    model: str
    size: int
    batch_size: int
    steps: int


def make_resident_step(
    case: Case,
    compute: ComputeConfig,
    network: nn.Module | None = None,
    *,
    is_ours: bool = False,
) -> Callable[[], None]:
    """Return a training step on a batch that stays in memory; `network` is new by default.

    `is_ours`: with trialrun's optimizer and kernels instead of torch's.
    """
    torch.manual_seed(0)
    if network is None:
        network = build_network(case.model, NUM_CLASSES, image_size=case.size)
    network.to(compute.device).to(memory_format=compute.memory_format).train()
    optimizer = (EagerSGD if is_ours else torch.optim.SGD)(
        network.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    )
    images = torch.randn(case.batch_size, 3, case.size, case.size, device=compute.device)
    images = images.contiguous(memory_format=compute.memory_format)
    labels = torch.randint(0, NUM_CLASSES, (case.batch_size,), device=compute.device)

    layers = list_adaptable(network) if is_ours else []

    def step() -> None:
        with compute.autocast(), adapt_to_small_maps(layers):
            loss = F.cross_entropy(network(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of `work` and of what it has started on the device."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_step_rate(step: Callable[[], None], case: Case, device: torch.device) -> float:
    """Return images per second over the case's steps, after one warm-up step."""
    step()

    def take_steps() -> None:
        for _ in range(case.steps):
            step()

    return case.batch_size * case.steps / measure_seconds(take_steps, device)


def measure_step_rates(case: Case, choices: list[ComputeConfig]) -> list[float]:
    """Return the rate of a bare loop for each choice."""
    return [
        measure_step_rate(make_resident_step(case, choice), case, choice.device)
        for choice in choices
    ]


def find_fastest(case: Case, device: torch.device) -> ComputeConfig:
    """Return the fastest of four choices of precision and layout.

    Small batches exclude slow choices first: a step in emulated bf16 takes minutes.
    """
    choices = [
        ComputeConfig(device, precision, layout)
        for precision in ("fp32", "bf16")
        for layout in ("NCHW", "NHWC")
    ]
    small = replace(case, batch_size=4, steps=2)
    rates = measure_step_rates(small, choices)
    candidates = [
        choice for choice, rate in zip(choices, rates, strict=True) if rate > 0.5 * max(rates)
    ]
    short = replace(case, steps=max(case.steps // 4, 2))
    rates = measure_step_rates(short, candidates)
    return candidates[rates.index(max(rates))]


def measure_our_rate(case: Case, data: ImageDataset, compute: ComputeConfig) -> float:
    """Return images per second of the second epoch, as a run would log it."""
    config = TrainConfig(epochs=2, batch_size=case.batch_size)
    valid = ImageDataset(data.source, data.rows[:2], data.labels[:2])
    train_data = TrainingData(data, valid, NUM_CLASSES, Preprocessing(case.size))
    torch.manual_seed(0)
    network = build_network(case.model, NUM_CLASSES, image_size=case.size)
    state = init_train_state(network, find_head_prefix(network), train_data, config, compute)
    return list(fit(state, config))[-1].train_images_per_second


def make_dataset(case: Case, photos: Path, cache: Path) -> ImageDataset:
    """Make a set of cached photos whose epoch has the case's number of steps."""
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


def measure_case(
    case: Case, photos: Path, cache: Path, device: torch.device, rounds: int
) -> list[object]:
    """Measure one case and return its row."""
    data = make_dataset(case, photos, cache)
    ours = resolve_compute(str(device), "auto")
    best = find_fastest(case, device)
    pairs = []
    for _ in range(rounds):
        limit = measure_step_rate(make_resident_step(case, best), case, device)
        pairs.append((measure_our_rate(case, data, ours), limit))
    ratio = statistics.median(rate / limit for rate, limit in pairs)
    rate = statistics.median(rate for rate, _ in pairs)
    limit = statistics.median(limit for _, limit in pairs)
    limit_choice = f"{best.precision} {best.layout}"
    row = [case.model, case.size, case.batch_size, ours.precision, rate, limit_choice]
    return [*row, limit, ratio]


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="only the two ResNet-18 cases")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = resolve_compute(arguments.device, "fp32").device
    on_gpu = device.type == "cuda"
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        photos = write_photos(Path(scratch) / "photos", 64, seed=1)
        for model, size in CASES:
            if arguments.quick and model != "resnet18":
                continue
            steps = 60 if on_gpu else (40 if size < 224 else 8)
            case = Case(model, size, 256 if on_gpu else 16, steps)
            cache = Path(scratch) / "packs"
            rows.append(measure_case(case, photos, cache, device, arguments.rounds))
    columns = ("model", "pixels", "batch", "ours", "images/s", "limit's", "limit", "ratio")
    sys.stdout.write(make_heading("Training on cached images, relative to data in memory"))
    sys.stdout.write("\n" + format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
