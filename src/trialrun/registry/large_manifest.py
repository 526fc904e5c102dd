"""Manifest of a run with many images: the set, the hash and the group of each, as Parquet."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.images.items import encode_texts, has_groups
from trialrun.images.scanning.file_scan import ScanTable, make_scan_table
from trialrun.images.scanning.scan import DatasetScan

if TYPE_CHECKING:
    import pyarrow as pa

LARGE_MANIFEST = "manifest.parquet"
_CHUNK_ROWS = 4096


def write_large_manifest(scans: Mapping[str, DatasetScan], path: Path) -> None:
    """Write the rows of all sets; the column `group` exists if any image has one."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    tables = [_build_table(name, scan) for name, scan in scans.items()]
    table = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    write_table(table, path, compression="zstd")


def _build_table(name: str, scan: DatasetScan) -> "pa.Table":
    import pyarrow as pa

    files = scan.files
    scans = files.table if isinstance(files, ScanTable) else make_scan_table(files)
    columns = {
        "set": encode_texts(name for _ in range(len(files))),
        "sha256": scans["sha256"],
    }
    if has_groups(scan.images.items):
        columns["group"] = encode_texts(item.group for item in scan.images.items)
    return pa.table(columns)


def read_large_manifest(data: bytes) -> Iterator[dict[str, object]]:
    """Yield the rows, with the keys of `manifest.jsonl` that they have."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(io.BytesIO(data)) as file:
        for batch in file.iter_batches(_CHUNK_ROWS):
            for row in batch.to_pylist():
                sha256 = row["sha256"]
                yield {**row, "sha256": "" if sha256 is None else sha256.hex()}


def extend_large_manifest(data: bytes, rows: Sequence[tuple[str, str]], path: Path) -> None:
    """Write a manifest with further rows: the set and the hash of each image."""
    import pyarrow as pa
    from pyarrow.parquet import read_table, write_table

    more = pa.table(
        {
            "set": encode_texts(name for name, _ in rows),
            "sha256": pa.array([bytes.fromhex(sha256) for _, sha256 in rows], pa.binary(32)),
        }
    )
    tables = [read_table(io.BytesIO(data)), more]
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    write_table(table, path, compression="zstd")
