"""Speed from image files to batches, with every figure as a ratio within one run.

    python -m benchmarks.images [--photos 1500] [--small 20000,200000]

1. Scanning photos and caching them at 224 pixels, against bare `decode_jpeg` and `resize` of the
   same files in the same process with the same number of threads; also the start time of the second
   run, and the number of images that it and a run on changed labels decode.
2. Cached batches with `standard` augmentation, against the training speed of ResNet-18.
3. Photos of 12 megapixels at 224 pixels, against Pillow's `draft` and against the full decode:
   time, and difference of the pixels.
4. Scanning and caching many small images: time by number of images, and memory above torch's own.
"""

import argparse
import datetime
import io
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
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.models import resnet18
from torchvision.transforms.v2 import functional

from benchmarks.photos import encode_large_photo, write_photos
from trialrun.engine.inputs.augment import augment_batch
from trialrun.image_cache import DecodedImages, open_pack
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.images import open_data
from trialrun.images.decoding.decode import decode_image
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
        _compare_with_bare_decoding(photos, folder)
        _compare_with_resnet(photos, folder)
    _compare_with_draft()
    with _scratch() as folder:
        _measure_many_small(folder, [int(number) for number in arguments.small.split(",")])


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
    print(f"load at the start: {load:.1f} (above 0.5 the figures are noisy)\n")


def _measure_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cache_images(images: Path, cache: Path, size: int) -> DecodedImages:
    """List, scan and cache images as a run does."""
    threads = count_threads()
    scan = scan_with_cache(open_data(str(images), cache), cache / "ledgers", threads=threads)
    return open_pack(
        scan, Preprocessing(size), cache / "packs", threads=threads, limit_bytes=_PACK_LIMIT
    )


def _decode_file(path: Path) -> torch.Tensor:
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    image = decode_jpeg(data, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    resized: torch.Tensor = functional.resize(image, [SIZE, SIZE], antialias=True)
    return resized


def _decode_bare(paths: list[Path]) -> None:
    with ThreadPoolExecutor(count_threads()) as pool:
        for _ in pool.map(_decode_file, paths):
            pass


@contextmanager
def _rename_class(photos: Path) -> Iterator[None]:
    """Give a class another name for a while."""
    folder = min(photos.iterdir())
    renamed = folder.rename(photos / "renamed")
    try:
        yield
    finally:
        renamed.rename(folder)


def _compare_with_bare_decoding(photos: Path, folder: Path) -> None:
    paths = sorted(photos.rglob("*.jpg"))
    _decode_bare(paths)  # loads the files into the page cache and starts torch's threads
    time.sleep(2)  # files changed more recently would be scanned again
    bare, ours, again, decoded, relabelled = [], [], [], 0, 0
    for number in range(ROUNDS):
        cache = folder / f"cache{number}"
        bare.append(_measure_seconds(lambda: _decode_bare(paths)))
        ours.append(_measure_seconds(lambda: _cache_images(photos, cache, SIZE)))  # noqa: B023 - called at once
        started = time.perf_counter()
        decoded += _cache_images(photos, cache, SIZE).num_decoded
        again.append(time.perf_counter() - started)
        with _rename_class(photos):
            relabelled += _cache_images(photos, cache, SIZE).num_decoded
        shutil.rmtree(cache)
    shares = [b / o for b, o in zip(bare, ours, strict=True)]
    print(f"1. {len(paths)} photos to {SIZE} pixels, {ROUNDS} rounds")
    print(f"   bare decode and resize   {len(paths) / statistics.median(bare):>8.0f} images/s")
    print(f"   scan and cache           {len(paths) / statistics.median(ours):>8.0f} images/s")
    spread = f"{min(shares):.2f} to {max(shares):.2f}"
    print(f"   share of bare            {statistics.median(shares):>8.2f} ({spread}; target: 0.85)")
    print(f"   second run ready after   {statistics.median(again):>8.2f} s (target: 0.5)")
    print(f"   second runs decoded      {decoded:>8} images (target: 0)")
    print(f"   after a class's renaming {relabelled:>8} images (target: 0)\n")


def _compare_with_resnet(photos: Path, folder: Path) -> None:
    pack = _cache_images(photos, folder / "cache", STORED)
    order = np.random.default_rng(1).permutation(len(pack.usable_rows()))

    def load_epoch() -> None:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            augment_batch(
                pack.pixels(rows), rows, augment="standard", epoch=1, random_seed=1, size=SIZE
            )

    load_epoch()
    delivered = len(order) / statistics.median(_measure_seconds(load_epoch) for _ in range(3))
    consumed = _measure_resnet()
    print(f"2. batches of {BATCH} at {SIZE} pixels, standard augmentation")
    print(f"   delivered from the cache {delivered:>8.0f} images/s")
    print(f"   trained by ResNet-18     {consumed:>8.1f} images/s")
    print(f"   ratio                    {delivered / consumed:>8.1f} (target: 10)\n")


def _measure_resnet() -> float:
    network = resnet18(num_classes=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    step()
    return BATCH / statistics.median(_measure_seconds(step) for _ in range(5))


def _compare_with_draft() -> None:
    photos = [encode_large_photo(index) for index in range(2)]
    preprocessing = Preprocessing(SIZE)
    drafts, ours, full = [], [], []
    for _ in range(ROUNDS):
        for data in photos:
            drafts.append(_measure_seconds(lambda: _decode_draft(data)))  # noqa: B023
            ours.append(_measure_seconds(lambda: preprocessing.decode(data)))  # noqa: B023
            full.append(_measure_seconds(lambda: preprocessing.prepare(decode_image(data))))  # noqa: B023
    differences = [
        (preprocessing.decode(data).float() - preprocessing.prepare(decode_image(data)).float())
        .abs()
        .mean()
        .item()
        for data in photos
    ]
    shares = [a / b for a, b in zip(ours, drafts, strict=True)]
    print(f"3. photos of 12 megapixels to {SIZE} pixels, one thread")
    print(f"   Pillow's draft           {1e3 * statistics.median(drafts):>8.1f} ms")
    print(f"   decode                   {1e3 * statistics.median(ours):>8.1f} ms")
    print(f"   full decode and resize   {1e3 * statistics.median(full):>8.1f} ms")
    print(f"   ratio to draft           {statistics.median(shares):>8.2f} (target: 1.2)")
    print(f"   mean pixel difference    {max(differences):>8.2f} of 255 (target: 2)\n")


def _decode_draft(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (SIZE, SIZE))
    image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def _measure_many_small(folder: Path, numbers: list[int]) -> None:
    print("4. small images, 8 by 8 pixels, to 32")
    seconds = []
    for number in numbers:
        images = _write_small(folder / f"small{number}", number)
        command = [sys.executable, "-m", "benchmarks.images", "--measure-small"]
        completed = subprocess.run(
            [*command, str(images), str(folder / "cache")],
            check=True,
            capture_output=True,
            text=True,
        )
        elapsed, peak = map(float, completed.stdout.split())
        seconds.append(elapsed)
        print(
            f"   {number:>8} images {elapsed:>8.1f} s, "
            f"{peak:.0f} MB above torch's own (target: 1000)"
        )
        shutil.rmtree(images)
        shutil.rmtree(folder / "cache")
    growth, ratio = numbers[-1] / numbers[0], seconds[-1] / seconds[0]
    print(f"   {growth:.0f} times the images took {ratio:.1f} times as long")


def _measure_small(images: Path, cache: Path) -> None:
    """Print seconds, and the peak memory above that of torch in MB; runs in a separate process."""
    Preprocessing(32).normalised(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    before = _read_peak_kilobytes()
    elapsed = _measure_seconds(lambda: _cache_images(images, cache, 32))
    print(elapsed, (_read_peak_kilobytes() - before) * 1024 / 1e6)


def _read_peak_kilobytes() -> int:
    """Return this process's peak memory; `getrusage` includes its parent's before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _write_small(folder: Path, number: int) -> Path:
    """Write different PNG files in ten classes; encoding by hand takes a tenth of the time."""
    random = np.random.default_rng(number)
    header = _make_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    end = _make_chunk(b"IEND", b"")
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for index in range(number):
        rows = random.integers(0, 256, (8, 9), dtype=np.uint8)
        rows[:, 0] = 0  # no filter
        pixels = _make_chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
        path = folder / str(index % 10) / f"{index:07}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + end)
    return folder


def _make_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


if __name__ == "__main__":
    main()
