"""Writing of a set as shards of about one size, and of their index."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.files import translate_storage_errors
from trialrun.images.dataset import escape_non_utf8
from trialrun.images.decoding.file_io import hold_rows
from trialrun.images.formats.image_directory_writer import read_scanned_bytes
from trialrun.images.items import has_groups
from trialrun.images.notes import format_examples
from trialrun.images.scanning.file_scan import FileScan, make_scan_table
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.shards.columns import ColumnNames, ShardColumns
from trialrun.images.shards.index import ShardIndex, make_index, make_table, write_index
from trialrun.images.shards.listing import INDEX_NAME
from trialrun.images.shards.storage import ShardFile, read_shard
from trialrun.images.shards.writing.writers import TAR_OVERHEAD_BYTES, WRITERS, ImageRow
from trialrun.images.split import sort_by_hash

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How a set is written: `tar` or `parquet`, the size of a shard, and the order.

    `random_seed` is the seed of a random order; None keeps the order of the set.
    """

    file_format: str
    shard_bytes: int
    random_seed: int | None


def write_shards(
    scan: DatasetScan, plan: ShardPlan, folder: Path, progress: Callable[[int], None]
) -> ShardIndex:
    """Write the readable images of a set and their index into `folder`.

    Raises:
        StorageError: The folder cannot be written.
        InvalidDatasetError: An image was deleted or changed after the scan.
    """
    tables: list[pa.Table] = []
    shards: list[ShardFile] = []
    chosen, classes = _choose_rows(scan, plan), scan.images.classes
    with translate_storage_errors(folder):
        for number, rows in enumerate(chosen):
            path = folder / f"shard-{number:05d}-of-{len(chosen):05d}.{plan.file_format}"
            tables.append(_write_shard(scan, rows, classes, path, number))
            shards.append(read_shard(str(path)))
            progress(len(rows))
    notes = (*scan.images.notes, *_describe_skipped(scan))
    index = make_index(shards, tables, ColumnNames(), _list_classes(scan), notes)
    write_index(index, folder / INDEX_NAME)
    return index


def _list_classes(scan: DatasetScan) -> tuple[str, ...]:
    """Return the classes in order, and then those without images."""
    images = scan.images
    return tuple(dict.fromkeys([*images.classes, *images.class_order, *images.declared_classes]))


def _choose_rows(scan: DatasetScan, plan: ShardPlan) -> list[NDArray[np.integer]]:
    """Return the rows of each shard; unreadable images are left out."""
    readable = np.fromiter((not file.reason for file in scan.files), dtype=np.bool_)
    sizes = np.fromiter((file.num_bytes for file in scan.files), dtype=np.int64)
    order: NDArray[np.integer] = np.arange(len(sizes))
    if plan.random_seed is not None:
        order = sort_by_hash(scan.images, plan.random_seed)
    order = order[readable[order]]
    ends = np.cumsum(sizes[order] + TAR_OVERHEAD_BYTES)
    if not len(ends):
        return []
    num_shards = -(-int(ends[-1]) // plan.shard_bytes)
    numbers = (ends - 1) * num_shards // int(ends[-1])
    starts = np.flatnonzero(np.diff(numbers)) + 1
    return np.split(order, starts)


def _write_shard(
    scan: DatasetScan,
    rows: NDArray[np.integer],
    classes: tuple[str, ...],
    path: Path,
    number: int,
) -> "pa.Table":
    """Write one shard and return its rows of the index."""
    import pyarrow as pa

    found = ShardColumns()
    files: list[FileScan] = []
    writer = WRITERS[path.suffix](path, classes, has_groups(scan.images.items))
    for row in _read_rows(scan, rows, classes):
        offset = writer.add(row)
        label = None if row.label is None else classes[row.label]
        found.add(row.name, label, row.group, offset=offset, num_bytes=len(row.data))
        files.append(scan.files[row.position])
    writer.close()
    table = make_table(found.build(), number).drop_columns(["size"])
    scans = make_scan_table(files)
    for name in scans.column_names:
        table = table.append_column(name, scans[name])
    return table.append_column("position", pa.array(rows, pa.int64()))


def _read_rows(
    scan: DatasetScan, rows: NDArray[np.integer], classes: tuple[str, ...]
) -> Iterator[ImageRow]:
    images = scan.images
    numbers = {name: number for number, name in enumerate(classes)}
    for row in hold_rows(images, rows.tolist()):
        item = images.items[row]
        data = read_scanned_bytes(images, item, scan.files[row])
        label = None if item.label is None else numbers[item.label]
        yield ImageRow(row, escape_non_utf8(item.name), label, item.group, data)


def _describe_skipped(scan: DatasetScan) -> tuple[str, ...]:
    names = [scan.images.items[row].name for row, file in enumerate(scan.files) if file.reason]
    if not names:
        return ()
    return (
        f"{len(names)} images could not be read and are not in the shards, for example "
        f"{format_examples(names)}",
    )
