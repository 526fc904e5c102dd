"""How fast images come from files to batches, each figure as a ratio within one run.

    python -m benchmarks.images [--photos 1500] [--small 20000,200000]

1. Scan and pack of photos to 224 pixels against bare `decode_jpeg` and `resize` of the same files
   in the same process with as many threads; the second run's wait and what it decodes.
2. Batches out of the pack with `standard` augmentation against what ResNet-18 learns from.
3. Scan and pack of many small images: time by number, and memory above torch's own.
"""

import argparse
import datetime
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.models import resnet18
from torchvision.transforms.v2 import functional

from benchmarks.photos import write_photos
from trialrun.engine.inputs.augment import augment_batch
from trialrun.image_cache import DecodedImages, open_pack
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.thread_pool import count_threads

SIZE, STORED = 224, 256
BATCH = 32
ROUNDS = 5
_PACK_LIMIT = 10**12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--small", default="20000,200000")
    parser.add_argument("--measure-small", nargs=2, metavar=("IMAGES", "CACHE"))
    arguments = parser.parse_args()
    if arguments.measure_small:
        _measure_small(*map(Path, arguments.measure_small))
        return
    _print_machine()
    with _scratch() as folder:
        photos = write_photos(folder / "photos", arguments.photos, seed=1)
        _photos_against_bare(photos, folder)
        _batches_against_resnet(photos, folder)
    with _scratch() as folder:
        _many_small(folder, [int(number) for number in arguments.small.split(",")])


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as folder:
        yield Path(folder)


def _print_machine() -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow"))
    load = os.getloadavg()[0]
    print(
        f"{datetime.date.today()}, {platform.machine()}, {count_threads()} processors, {packages}"
    )
    print(f"load when begun: {load:.1f} (above 0.5 the figures are noisy)\n")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _packed(images: Path, cache: Path, size: int) -> DecodedImages:
    """As a run does it: names, survey, pack."""
    threads = count_threads()
    scan = scan_with_cache(open_data(str(images), cache), cache / "ledgers", threads=threads)
    return open_pack(
        scan, Preprocessing(size), cache / "packs", threads=threads, limit_bytes=_PACK_LIMIT
    )


def _bare(path: Path) -> torch.Tensor:
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    image = decode_jpeg(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    resized: torch.Tensor = functional.resize(image, [SIZE, SIZE], antialias=True)
    return resized


def _decode_bare(paths: list[Path]) -> None:
    with ThreadPoolExecutor(count_threads()) as pool:
        for _ in pool.map(_bare, paths):
            pass


def _photos_against_bare(photos: Path, folder: Path) -> None:
    paths = sorted(photos.rglob("*.jpg"))
    _decode_bare(paths)  # the files come into memory, and torch's threads up
    time.sleep(2)  # younger files would not be trusted to be unchanged
    bare, ours, again, decoded = [], [], [], 0
    for number in range(ROUNDS):
        cache = folder / f"cache{number}"
        bare.append(_seconds(lambda: _decode_bare(paths)))
        ours.append(_seconds(lambda: _packed(photos, cache, SIZE)))  # noqa: B023 - called at once
        started = time.perf_counter()
        decoded += _packed(photos, cache, SIZE).num_decoded
        again.append(time.perf_counter() - started)
        shutil.rmtree(cache)
    shares = [b / o for b, o in zip(bare, ours, strict=True)]
    print(f"1. {len(paths)} photos to {SIZE} pixels, {ROUNDS} rounds")
    print(f"   bare decode and resize   {len(paths) / statistics.median(bare):>8.0f} images/s")
    print(f"   scan and pack            {len(paths) / statistics.median(ours):>8.0f} images/s")
    spread = f"{min(shares):.2f} to {max(shares):.2f}"
    print(f"   share of bare            {statistics.median(shares):>8.2f} ({spread}; asked: 0.8)")
    print(f"   second run ready after   {statistics.median(again):>8.2f} s (asked: 0.5)")
    print(f"   second runs decoded      {decoded:>8} images (asked: 0)\n")


def _batches_against_resnet(photos: Path, folder: Path) -> None:
    pack = _packed(photos, folder / "cache", STORED)
    order = np.random.default_rng(1).permutation(len(pack.usable_rows()))

    def one_epoch() -> None:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            augment_batch(
                pack.pixels(rows), rows, augment="standard", epoch=1, random_seed=1, size=SIZE
            )

    one_epoch()
    delivered = len(order) / statistics.median(_seconds(one_epoch) for _ in range(3))
    consumed = _resnet_images_per_second()
    print(f"2. batches of {BATCH} at {SIZE} pixels, standard augmentation")
    print(f"   delivered out of the pack{delivered:>8.0f} images/s")
    print(f"   learned by ResNet-18     {consumed:>8.1f} images/s")
    print(f"   ratio                    {delivered / consumed:>8.1f} (asked: 10)\n")


def _resnet_images_per_second() -> float:
    network = resnet18(num_classes=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    step()
    return BATCH / statistics.median(_seconds(step) for _ in range(5))


def _many_small(folder: Path, numbers: list[int]) -> None:
    print("3. small images, 8 by 8 pixels, to 32")
    seconds = []
    for number in numbers:
        images = _write_small(folder / f"small{number}", number)
        command = [sys.executable, "-m", "benchmarks.images", "--measure-small"]
        done = subprocess.run(
            [*command, str(images), str(folder / "cache")],
            check=True,
            capture_output=True,
            text=True,
        )
        taken, peak = map(float, done.stdout.split())
        seconds.append(taken)
        print(
            f"   {number:>8} images {taken:>8.1f} s, {peak:.0f} MB above torch's own (asked: 1000)"
        )
        shutil.rmtree(images)
        shutil.rmtree(folder / "cache")
    growth, ratio = numbers[-1] / numbers[0], seconds[-1] / seconds[0]
    print(f"   {growth:.0f} times the images took {ratio:.1f} times as long")


def _measure_small(images: Path, cache: Path) -> None:
    """In a process of its own: seconds, and the peak of memory above what torch takes, in MB."""
    Preprocessing(32).normalised(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    before = _peak_kilobytes()
    taken = _seconds(lambda: _packed(images, cache, 32))
    print(taken, (_peak_kilobytes() - before) * 1024 / 1e6)


def _peak_kilobytes() -> int:
    """The most that this process held; `getrusage` would count its parent's before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _write_small(folder: Path, number: int) -> Path:
    """So many different PNG files in ten classes, put together by hand, as that takes a tenth."""
    random = np.random.default_rng(number)
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    end = _chunk(b"IEND", b"")
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index in range(number):
        rows = random.integers(0, 256, (8, 9), dtype=np.uint8)
        rows[:, 0] = 0  # no filter
        pixels = _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
        path = folder / str(index % 10) / f"{index:07}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + end)
    return folder


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


if __name__ == "__main__":
    main()
