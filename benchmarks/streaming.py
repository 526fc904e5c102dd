"""Streaming from shards against cached images: what ResNet-18 at 224 pixels gets of both.

    python -m benchmarks.streaming [--photos 2048] [--steps 6]

1. Images per second of a training on cached images, on shards of the local disk, and on shards of
   an object store on this machine (moto), in rounds of one process. The ratio by
   processor time does not depend on what else the machine computes.
2. The same without a network: what each source delivers alone, the processor time of a decoded
   image and of a trained one, and the ratio that follows from them if all cores are busy.
3. Memory of the process while it streams.
"""

import argparse
import datetime
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import resnet18

from benchmarks.photos import write_photos
from tests.object_store import open_store
from trialrun.engine.inputs.batches import (
    Batch,
    ImageDataset,
    PrefetchIterator,
    training_batches,
)
from trialrun.engine.inputs.stream_order import Sharding
from trialrun.image_cache import open_pack
from trialrun.image_cache.perceptual_hash import PerceptualHashes, compute_hashes
from trialrun.image_cache.stream import StreamedImages
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.images.scanning.thread_pool import count_threads, map_in_order
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile, list_shards

SIZE, BATCH, SHARD_SIZE, ROUNDS = 224, 32, 64, 6


@dataclass(slots=True)
class TarImages:
    """JPEGs in tars, decoded by threads as they are needed."""

    shards: list[ShardFile]
    places: list[tuple[int, int, int]]  # shard, offset and size of each image
    cache: ShardCache
    preprocessing: Preprocessing
    num_decoded: int = 0
    reasons: tuple[str, ...] = ()
    perceptual_hashes: PerceptualHashes = field(default_factory=lambda: compute_hashes(b""))
    aspects: NDArray[np.float32] = field(default_factory=lambda: np.ones(0, dtype=np.float32))

    def usable_rows(self) -> list[int]:
        """Return all rows."""
        return list(range(len(self.places)))

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Decode the images at `rows`: (N, 3, S, S) uint8, channels last."""
        threads = count_threads()
        decoded = map_in_order(
            self._decode, rows.tolist(), threads=threads, on_timeout=self._decode, chunk_size=4
        )
        self.num_decoded += len(rows)
        return torch.stack(list(decoded)).contiguous(memory_format=torch.channels_last)

    def _decode(self, row: int) -> Tensor:
        shard, offset, size = self.places[row]
        with self.cache.hold(self.shards[shard]) as path:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                data = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        return self.preprocessing.decode(data)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    _print_machine()
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as name, open_store() as store:
        folder = Path(name)
        photos = write_photos(folder / "photos", arguments.photos, seed=1)
        places = _write_tars(sorted(photos.rglob("*.jpg")), folder / "tars")
        os.environ |= {
            "AWS_ENDPOINT_URL": store.address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for path in sorted((folder / "tars").iterdir()):
            store.put(f"tars/{path.name}", path.read_bytes())
        cached = _open_cached(photos, folder / "cache")
        local = _open_tars(str(folder / "tars"), places, folder / "local")
        sources = {
            "cached images": lambda: cached,
            "local shards": lambda: local,
            "shards of a store": lambda: _open_tars(
                "s3://data/tars", places, Path(tempfile.mkdtemp(dir=folder))
            ),
        }
        _compare_training(sources, arguments.steps)
        _compare_delivery(sources)
        _measure_memory(sources["local shards"]())


def _print_machine() -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "fsspec"))
    load = os.getloadavg()[0]
    print(
        f"{datetime.date.today()}, {platform.machine()}, {count_threads()} processors, {packages}"
    )
    print(f"load at the start: {load:.1f} (above 0.5 the figures are noisy)\n")


def _write_tars(paths: list[Path], folder: Path) -> list[tuple[int, int, int]]:
    """Write shards of shuffled images and return where each image is."""
    folder.mkdir()
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    places = []
    for shard, start in enumerate(range(0, len(paths), SHARD_SIZE)):
        path = folder / f"train-{shard:05d}.tar"
        with tarfile.open(path, "w") as tar:
            for index in order[start : start + SHARD_SIZE]:
                tar.add(paths[index], f"{index:07d}.jpg")
        with tarfile.open(path) as tar:
            places += [(shard, member.offset_data, member.size) for member in tar]
    return places


def _open_cached(photos: Path, cache: Path) -> ImageDataset:
    scan = scan_files(open_data(str(photos), cache), threads=count_threads())
    pack = open_pack(
        scan, Preprocessing(SIZE), cache / "packs", threads=count_threads(), limit_bytes=10**12
    )
    rows = np.asarray(pack.usable_rows())
    return ImageDataset(pack, rows, np.zeros(len(rows), dtype=np.int64))


def _open_tars(address: str, places: list[tuple[int, int, int]], folder: Path) -> ImageDataset:
    shards = list_shards(address)
    cache = ShardCache(folder, 10**10)
    numbers = np.array([shard for shard, _, _ in places])
    images = TarImages(shards, places, cache, Preprocessing(SIZE))
    source = StreamedImages(images, shards, numbers, cache)
    return ImageDataset(
        source,
        np.arange(len(places)),
        np.zeros(len(places), dtype=np.int64),
        sharding=Sharding(numbers, source.prefetch),
    )


def _load_batches(data: ImageDataset) -> Iterator[Batch]:
    return iter(PrefetchIterator(training_batches(data, epoch=1, batch_size=BATCH, random_seed=1)))


@dataclass(frozen=True, slots=True)
class Speed:
    """Images per second, and processor seconds per image."""

    images_per_second: float
    processor_seconds: float


def _measure(batches: Iterator[Batch], use: Callable[[Batch], object], num_batches: int) -> Speed:
    """Measure batches after a first one, which waits for the first shards."""
    use(next(batches))
    started, started_cpu, num_images = time.perf_counter(), time.process_time(), 0
    for batch in islice(batches, num_batches):
        use(batch)
        num_images += len(batch)
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return Speed(num_images / seconds, cpu / num_images)


def _make_step() -> Callable[[Batch], object]:
    network = resnet18(num_classes=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    preprocessing = Preprocessing(SIZE)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        inputs = preprocessing.normalised(batch.pixels)
        torch.nn.functional.cross_entropy(network(inputs), batch.labels).backward()
        optimizer.step()

    return step


def _compare_training(sources: dict[str, Callable[[], ImageDataset]], num_steps: int) -> None:
    step = _make_step()
    speeds: dict[str, list[Speed]] = {name: [] for name in sources}
    _measure(_load_batches(sources["cached images"]()), step, num_steps)  # warms up
    names = list(sources)
    for number in range(ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            speeds[name].append(_measure(_load_batches(sources[name]()), step, num_steps))
    print(f"1. ResNet-18 trained with batches of {BATCH} at {SIZE} pixels, {ROUNDS} rounds")
    for name, measured in speeds.items():
        pairs = list(zip(measured, speeds["cached images"], strict=True))
        shares = [speed.images_per_second / base.images_per_second for speed, base in pairs]
        processor = [base.processor_seconds / speed.processor_seconds for speed, base in pairs]
        rate = statistics.median(speed.images_per_second for speed in measured)
        print(
            f"   {name:<20}{rate:>8.1f} images/s, {_format_spread(shares)} of cached; "
            f"{_format_spread(processor)} by processor time"
        )
    print("   target: 0.9\n")


def _format_spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _compare_delivery(sources: dict[str, Callable[[], ImageDataset]]) -> None:
    print("2. without a network")
    delivered = {}
    for name, open_source in sources.items():
        num_batches = 24
        delivered[name] = _measure(_load_batches(open_source()), lambda _batch: None, num_batches)
        speed = delivered[name]
        print(
            f"   {name:<20}{speed.images_per_second:>8.0f} images/s, "
            f"{1e3 * speed.processor_seconds:.2f} ms of a processor per image"
        )
    batch = next(_load_batches(sources["cached images"]()))
    trained = _measure(iter([batch] * 4), _make_step(), 3).processor_seconds
    decoded = delivered["local shards"].processor_seconds
    print(
        f"   ResNet-18           {1e3 * trained:>8.2f} ms of a processor per image: the ratio "
        f"cannot exceed {trained / (trained + decoded):.3f} if both use all cores\n"
    )


def _measure_memory(data: ImageDataset) -> None:
    print("3. resident memory while images are streamed")
    for epoch in range(1, 5):
        for _ in training_batches(data, epoch=epoch, batch_size=BATCH, random_seed=1):
            pass
        print(f"   after {epoch * len(data):>8} images {_read_resident_bytes() / 1e6:>8.0f} MB")


def _read_resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
