"""The division of this machine's processors among the workers of a search.

A step on small images is too short for several threads: two trainings with one thread each do more
work in the same time than one training with two (benchmarks/cores.py). Planning imports no torch,
so this module imports it only where there may be a GPU.
"""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trialrun.config import AUTO_TEXT
from trialrun.engine.memory.available import read_available_memory
from trialrun.images.dataset import ImageSet
from trialrun.images.decoding.file_io import read_item
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.file_scan import scan_content
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.space import Range

_PIXELS_PER_THREAD = 128 * 128  # of an image; a training with more gets further threads
_PROCESS_BYTES = 1 << 30  # of a worker without the tensors of a step
_BYTES_PER_PIXEL = 4 << 10  # of the images of a step; ResNet-50 in fp32 takes about 3.5 kB
_MAX_SIDE = 224  # `image_size=auto` is larger for few pretrained weights only
_MAX_WORKERS = 16  # they share one study and one tracking store
# Trials of a frozen backbone per worker: they take 0.3 s, and a worker's start about 8 s.
_MIN_HEADS = 48
_NUM_SAMPLED = 32  # images whose sizes are read
_GPU_FILES = ("dev/nvidia0", "dev/kfd")  # of NVIDIA's and AMD's drivers


@dataclass(frozen=True, slots=True)
class Division:
    """The number of worker processes, the threads of each, and why; empty if the user chose."""

    num_workers: int
    num_threads: int
    reason: str = ""

    def text(self) -> str:
        """Describe the division for a note."""
        trials = "one trial" if self.num_workers == 1 else f"{self.num_workers} trials"
        threads = "one thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return f"workers=auto: {trials} at a time, {threads} for each ({self.reason})"


def divide_processors(plan: SearchPlan, num_trials: int, root: Path = Path("/")) -> Division:
    """Return the division for `num_trials` trials that are still to be trained.

    `root` is the folder of dev, proc and sys.
    """
    num_processors = count_threads()
    if plan.config.workers != AUTO_TEXT:
        num_workers = int(plan.config.workers)
        return Division(num_workers, max(num_processors // num_workers, 1))
    num_gpus = _count_gpus(plan.base.config.device, root)
    if num_gpus is not None:
        num_workers = max(min(num_gpus, num_trials), 1)
        reason = f"{num_gpus} GPUs" if num_gpus > 1 else "one GPU"
        return Division(num_workers, max(num_processors // num_workers, 1), reason)
    if plan.base.config.freeze == "backbone" and plan.base.config.augment == "none":
        return _divide_among_heads(num_processors, num_trials, root)
    side = find_largest_side(plan)
    num_threads = min(-(-side * side // _PIXELS_PER_THREAD), num_processors)
    limits = {
        f"{side} pixels": num_processors // num_threads,
        "number of trials": num_trials,
        "free memory": _count_fitting_workers(plan, side, root),
        "shared store": _MAX_WORKERS,
    }
    return _choose_smallest(limits, num_processors)


def _divide_among_heads(num_processors: int, num_trials: int, root: Path) -> Division:
    """Return the division for trials of a frozen backbone, whose features the workers share."""
    free_bytes = read_available_memory(root).least_bytes
    limits = {
        "short trials of a frozen backbone": num_trials // _MIN_HEADS,
        "number of processors": num_processors,
        "free memory": _MAX_WORKERS if free_bytes is None else free_bytes // _PROCESS_BYTES,
        "shared store": _MAX_WORKERS,
    }
    return _choose_smallest(limits, num_processors)


def _choose_smallest(limits: Mapping[str, int], num_processors: int) -> Division:
    """Return the division for the smallest number of workers, whose name is the reason."""
    reason = min(limits, key=limits.__getitem__)
    num_workers = max(limits[reason], 1)
    return Division(num_workers, num_processors // num_workers, reason)


def _count_fitting_workers(plan: SearchPlan, side: int, root: Path) -> int:
    """Return how many workers fit into the free memory, with the largest batches."""
    free_bytes = read_available_memory(root).least_bytes
    if free_bytes is None:
        return _MAX_WORKERS
    images = _find_largest(plan, "batch_size") or plan.base.config.batch_size
    return free_bytes // (_PROCESS_BYTES + images * side * side * _BYTES_PER_PIXEL)


def find_largest_side(plan: SearchPlan) -> int:
    """Return the largest side of the networks' inputs in pixels; of `auto`, an estimate.

    The estimate reads the sizes of a few training images.
    """
    if (searched := _find_largest(plan, "image_size")) is not None:
        return searched
    if plan.base.config.image_size != AUTO_TEXT:
        return int(plan.base.config.image_size)
    sides = list(_read_shorter_sides(plan.base.train))
    return min(int(statistics.median(sides)), _MAX_SIDE) if sides else _MAX_SIDE


def _find_largest(plan: SearchPlan, name: str) -> int | None:
    """Return the largest number that the search tries of a setting; None if there is none."""
    dimension = plan.space.dimensions.get(name)
    if isinstance(dimension, Range):
        return int(dimension.largest())
    options = () if dimension is None else dimension.options
    return max((option for option in options if option != AUTO_TEXT), default=None)


def _read_shorter_sides(images: ImageSet) -> Iterator[int]:
    """Yield the shorter sides of some readable images, which are spread over the set."""
    step = max(len(images.items) // _NUM_SAMPLED, 1)
    for index in range(0, len(images.items), step)[:_NUM_SAMPLED]:
        item = images.items[index]
        with suppress(UndecodableError):
            scan = scan_content(item.name, read_item(images, item))
            if not scan.reason:
                yield min(scan.width, scan.height)


def _count_gpus(device: str, root: Path) -> int | None:
    """Return the number of devices that workers can have; None if they train on the CPU."""
    if device == "cpu":
        return None
    if device == AUTO_TEXT and not any((root / file).exists() for file in _GPU_FILES):
        return _count_apple_gpus()
    import torch

    if device in (AUTO_TEXT, "cuda") and torch.cuda.is_available():
        return torch.cuda.device_count() if device == AUTO_TEXT else 1
    return None if device == AUTO_TEXT else 1


def _count_apple_gpus() -> int | None:
    import sys

    return 1 if sys.platform == "darwin" else None
