"""Cache of the scans of shards whose index has none: their images are read once.

It has one file per set of shards, with the number of each scanned row. The name of the file is the
identity of the shards, so that its scans are valid as long as it is found.
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialrun.errors import StorageError
from trialrun.files import touch_file
from trialrun.images.arrow_files import read_arrow_file, write_arrow_file
from trialrun.images.dataset import ImageSet
from trialrun.images.items import ItemTable
from trialrun.images.scanning.file_scan import SCAN_COLUMNS, Progress, ScanTable, make_scan_table
from trialrun.images.scanning.scan import DatasetScan, scan_files

if TYPE_CHECKING:
    import pyarrow as pa

_ROW = "row"


def find_scans_path(key: str, folder: Path) -> Path:
    """Return the path below `folder` of the scans of the shards with an identity."""
    return folder / f"{key}-scans.arrow"


def scan_shards_with_cache(
    images: ImageSet, path: Path, *, threads: int, progress: Progress
) -> DatasetScan:
    """Scan images in shards; those whose scans `path` holds are not read again."""
    import pyarrow as pa

    assert images.shards is not None
    assert isinstance(images.items, ItemTable)
    if images.shards.recorded is not None:
        return scan_files(images, threads=threads, progress=progress)
    table = _read_table(path)
    missing = np.flatnonzero(~np.isin(images.items.rows, table[_ROW].to_numpy()))
    progress(len(images) - len(missing))
    if len(missing):
        rest = images.subset(missing) if len(missing) < len(images) else images
        new = scan_files(rest, threads=threads, progress=progress).files
        assert isinstance(new, ScanTable)
        rows = pa.array(images.items.rows[missing], pa.int64())
        scanned = new.table.append_column(_ROW, rows)
        table = pa.concat_tables([table, scanned]) if len(table) else scanned
        _write_table(table, path)
        if rest is images:
            return DatasetScan(images, new)
    else:
        touch_file(path)
    return DatasetScan(images, _select_rows(table, images.items))


def _select_rows(table: "pa.Table", items: ItemTable) -> ScanTable:
    known = table[_ROW].to_numpy()
    order = np.argsort(known)
    places = order[np.searchsorted(known, items.rows, sorter=order)]
    scans = table.select(SCAN_COLUMNS)
    if bool((np.diff(places) == 1).all()):  # a copy of a million scans takes 60 MB
        return ScanTable(scans.slice(int(places[0]) if len(places) else 0, len(places)))
    return ScanTable(scans.take(places))


def _read_table(path: Path) -> "pa.Table":
    """Read the stored scans; an empty table if there are none, or the file is damaged."""
    import pyarrow as pa

    empty = make_scan_table(()).append_column(_ROW, pa.array([], pa.int64()))
    try:
        table = read_arrow_file(path)
    except (OSError, pa.ArrowException):
        return empty
    return table if table.schema.equals(empty.schema) else empty


def _write_table(table: "pa.Table", path: Path) -> None:
    """Store the scans of images that could be read; a cache that cannot be written is no error."""
    if table["sha256"].null_count:
        table = table.filter(table["sha256"].is_valid())
    with suppress(StorageError):
        write_arrow_file(table, path)
