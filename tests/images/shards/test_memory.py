"""Memory of large sets in shards: columns instead of one Python object per image."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trialrun.images import open_data, split_stratified
from trialrun.images.scanning.file_scan import ScanTable
from trialrun.images.scanning.scan import DatasetScan

NUM_ROWS = 20_000
MAX_BYTES_PER_ROW = 300  # the limit for a million images, of which names and hashes take 120


def _write(path: Path) -> None:
    names = [f"n0144/{number:012d}.jpg" for number in range(NUM_ROWS)]
    images = pa.StructArray.from_arrays(
        [pa.array([b"x"] * NUM_ROWS), pa.array(names)], names=["bytes", "path"]
    )
    labels = np.arange(NUM_ROWS) % 100
    path.parent.mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), path)


def _make_scans() -> ScanTable:
    digests = [number.to_bytes(32, "big") for number in range(NUM_ROWS)]
    texts = pa.nulls(NUM_ROWS, pa.string())
    sides = pa.array(np.full(NUM_ROWS, 400, dtype=np.int32))
    columns = {
        "sha256": pa.array(digests, pa.binary(32)),
        "size": sides.cast(pa.int64()),
        "width": sides,
        "height": sides,
        "reason": texts,
        "warning": texts,
    }
    return ScanTable(pa.table(columns))


def test_rows_of_a_large_set_take_little_memory(tmp_path: Path) -> None:
    """Opening by a stored index, the split and the digest stay below a limit per image."""
    _write(tmp_path / "set" / "train.parquet")
    first = open_data(str(tmp_path / "set"), tmp_path / "cache")
    scans = _make_scans()
    whole = DatasetScan(first, scans).content_digest()
    del first
    in_arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        images = open_data(str(tmp_path / "set"), tmp_path / "cache")
        parts = split_stratified(images, second_fraction=0.2, random_seed=1)
        assert [len(part) for part in parts] == [NUM_ROWS * 4 // 5, NUM_ROWS // 5]
        assert DatasetScan(images, scans).content_digest() == whole
        python_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    arrow_bytes = pa.total_allocated_bytes() - in_arrow
    assert (python_bytes + arrow_bytes) / NUM_ROWS < MAX_BYTES_PER_ROW
