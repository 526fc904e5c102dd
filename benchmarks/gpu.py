"""Training on a GPU: when torch.compile pays, and whether images arrive as fast as they are used.

    python -m benchmarks.gpu [--device auto] [--models resnet50 densenet121] [--batch-size 256]
        [--size 224] [--steps 30] [--precision auto]

compile: the step on a batch that stays on the device, eager and compiled, the seconds of the first
compiled step, and the number of steps after which compiling has saved these seconds.

images: the images/s of each augmentation on the device, of decoding JPEG by all cores, and of
decoding by nvJPEG on the GPU. Those relative to the network's images/s must exceed 1, or training
waits. Decoding is paid once, because the image cache keeps the pixels; augmentation is paid in each
epoch.

`benchmarks.engine --device cuda` relates training to data in memory, `benchmarks.peers --device
cuda --model resnet50 --batch-size 256 --only timm` to timm on the same card.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.engine import (
    NUM_CLASSES,
    Case,
    make_resident_step,
    measure_seconds,
    measure_step_rate,
)
from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.engine.inputs.augment import augment_batch
from trialrun.images import ImageItem, ImageSet
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.models.zoo.networks import build_network
from trialrun.runs.scoring.images import decode_file

AUGMENTATIONS = ("none", "flip", "standard", "strong")
NUM_PHOTOS = 512
NUM_BATCHES = 4  # of an augmentation, after one that warms up


def measure_compilation(case: Case, compute: ComputeConfig) -> list[object]:
    """Return a network's eager and compiled steps in ms, its compilation, and the break-even."""
    eager_rate = measure_step_rate(make_resident_step(case, compute), case, compute.device)
    network = build_network(case.model, NUM_CLASSES, image_size=case.size).to(compute.device)
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    step = make_resident_step(case, compute, compiled)
    first_seconds = measure_seconds(step, compute.device)
    compiled_rate = measure_step_rate(step, case, compute.device)
    eager, fast = case.batch_size / eager_rate, case.batch_size / compiled_rate
    saved = eager - fast
    break_even = f"{(first_seconds - fast) / saved:.0f}" if saved > 0 else "never"
    return [case.model, eager_rate, eager * 1e3, fast * 1e3, first_seconds, break_even]


def measure_augmentations(case: Case, device: torch.device) -> Iterator[tuple[str, float]]:
    """Yield each augmentation and its images/s on the device."""
    shape = (case.batch_size, 3, case.size, case.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    positions = np.arange(case.batch_size)
    for augment in AUGMENTATIONS:
        work = partial(augment_batch, pixels, positions, augment=augment, epoch=1, random_seed=1)
        work()
        seconds = measure_seconds(lambda: [work() for _ in range(NUM_BATCHES)], device)  # noqa: B023
        yield f"augment={augment}", NUM_BATCHES * case.batch_size / seconds


def measure_decoding(case: Case, device: torch.device, folder: Path) -> Iterator[tuple[str, float]]:
    """Yield each decoder and its images/s, of photos of about 400 by 350 pixels."""
    photos = write_photos(folder, NUM_PHOTOS, seed=1)
    files = sorted(photos.rglob("*.jpg"))
    names = (str(path.relative_to(photos)) for path in files)
    images = ImageSet(str(photos), photos, tuple(map(ImageItem, names)))
    decode = partial(decode_file, images, Preprocessing(case.size))
    with ThreadPoolExecutor(count_threads()) as pool:
        list(pool.map(decode, images.items[:64]))
        seconds = measure_seconds(lambda: list(pool.map(decode, images.items)), device)
    yield f"decoding and resizing, {count_threads()} threads", len(files) / seconds
    if device.type == "cuda":
        encoded = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in files]
        work = partial(decode_jpeg, mode=ImageReadMode.RGB, device=device)
        work(encoded[:64])
        yield "decoding by nvJPEG", len(files) / measure_seconds(lambda: work(encoded), device)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", default=["resnet50", "densenet121"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", default="auto")
    return parser.parse_args()


def main() -> int:
    """Measure and print both tables."""
    arguments = parse_arguments()
    keep_freed_memory()
    compute = resolve_compute(arguments.device, arguments.precision)
    device = compute.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    cases = [
        Case(model, arguments.size, arguments.batch_size, arguments.steps)
        for model in arguments.models
    ]
    title = (
        f"{name}, {compute.precision}, {arguments.size} pixels, batches of {cases[0].batch_size}"
    )
    rows = [measure_compilation(case, compute) for case in cases]
    columns = ("model", "images/s", "step, ms", "compiled, ms", "first step, s", "pays after steps")
    sys.stdout.write(make_heading(title) + "\n" + format_table(columns, rows) + "\n")
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
        rates = [*measure_augmentations(cases[0], device)]
        rates += measure_decoding(cases[0], device, Path(scratch))
    network_rates = [float(str(row[1])) for row in rows]
    table = [[work, rate, *(rate / found for found in network_rates)] for work, rate in rates]
    relative = (f"relative to {case.model}" for case in cases)
    sys.stdout.write(format_table(("work", "images/s", *relative), table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
