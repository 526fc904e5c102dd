"""Time and memory of a set of a million images in shards, before any of them is decoded.

    python -m benchmarks.large_index [--rows 1000000] [--folder FOLDER]

Writes Parquet shards of tiny images once (100 bytes each), and scans them once. A second process
then opens the set by its stored index: names, labels, split, scans, digests and manifest. Printed
are the seconds of each step, and by how much the process's largest size exceeds that after the
imports.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_NUM_SHARDS, _NUM_CLASSES = 100, 1000
_MAX_MEGABYTES, _MAX_SECONDS = 300, 20


def write_shards(folder: Path, num_rows: int) -> None:
    """Write shards in Hugging Face's layout; images differ in one pixel, names are usual ones."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"n{number:08d}" for number in range(_NUM_CLASSES)]
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    generator = np.random.default_rng(0)
    for shard, rows in enumerate(np.array_split(np.arange(num_rows), _NUM_SHARDS)):
        path = folder / f"train-{shard:05d}-of-{_NUM_SHARDS:05d}.parquet"
        if path.exists():
            continue
        labels = generator.integers(0, _NUM_CLASSES, len(rows))
        images = [
            {"bytes": _draw(int(row)), "path": f"{names[label]}_{row}.png"}
            for row, label in zip(rows, labels, strict=True)
        ]
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
        pq.write_table(table, path, row_group_size=1000)


def _draw(number: int) -> bytes:
    pixels = np.frombuffer(number.to_bytes(4, "big") * 48, dtype=np.uint8).reshape(8, 8, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def measure(folder: Path) -> None:
    """Print what opening the set costs this process, whose scans may be stored."""
    from trialrun.cache.location import scans_folder
    from trialrun.image_cache.scan_cache import scan_with_cache
    from trialrun.images import split_stratified
    from trialrun.images.scanning.thread_pool import count_threads
    from trialrun.runs.datasets.sources import open_source
    from trialrun.runs.training.inputs.manifest import summarize_set

    before, started, cpu_started = _read_memory("VmRSS"), time.perf_counter(), time.process_time()
    with _timed("names and labels"):
        images = open_source(str(folder))
        assert len(images.classes) <= _NUM_CLASSES
    with _timed("split"):
        parts = split_stratified(images, second_fraction=0.2, random_seed=1)
    with _timed("scans"):
        scans = [scan_with_cache(p, scans_folder(), threads=count_threads()) for p in parts]
    with _timed("digests"):
        digests = [scan.content_digest() for scan in scans]
    with _timed("manifest"):
        for scan, digest in zip(scans, digests, strict=True):
            summarize_set(scan, digest)
    seconds, peak = time.perf_counter() - started, _read_memory("VmHWM")
    print(
        f"{len(images):,} images: {seconds:.1f} s ({time.process_time() - cpu_started:.1f} s of "
        f"processor time), memory grew by {peak - before:.0f} MB to {peak:.0f} MB (limits "
        f"{_MAX_SECONDS} s, {_MAX_MEGABYTES} MB)"
    )


@contextmanager
def _timed(step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"  {step}: {time.perf_counter() - started:.2f} s, peak {_read_memory('VmHWM'):.0f} MB")


def _read_memory(kind: str) -> float:
    """Return the resident size of this process in MB: the present one, or the largest so far."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1e3


def main() -> None:
    """Write the shards, and measure a first and a second start in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/large_index"))
    parser.add_argument("--measure", action="store_true", help="measure one start only")
    arguments = parser.parse_args()
    folder: Path = arguments.folder / str(arguments.rows)
    if arguments.measure:
        measure(folder)
        return
    write_shards(folder, arguments.rows)
    os.environ["TRIALRUN_CACHE"] = str(arguments.folder / "cache")
    command = [sys.executable, "-m", "benchmarks.large_index", "--measure"]
    command += [f"--rows={arguments.rows}", f"--folder={arguments.folder}"]
    for start in ("first start, which reads all shards", "second start"):
        print(f"{start}:", flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
