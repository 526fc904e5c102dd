"""Cache of file scans: a file that has not changed is not read again.

A file counts as unchanged while its size, inode, modification time and change time stay the same
(no user can set the change time back). A file that changed less than two seconds before it was read
is not cached. The cache has one JSON file per root folder.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeGuard

from trialrun.errors import StorageError
from trialrun.files import write_atomically
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.decoding.file_io import FileFingerprint, read_fingerprint
from trialrun.images.scanning.scan import (
    DatasetScan,
    FileScan,
    Progress,
    ignore_progress,
    scan_files,
)

_FORMAT = 2  # raised when a header would be scanned with another result
_FINGERPRINT_VALUES = 4
_ROW_TYPES = (int, int, int, int, str, int, int, int, str, str)  # the fingerprint, then the scan


def scan_with_cache(
    images: ImageSet, folder: Path, *, threads: int, progress: Progress = ignore_progress
) -> DatasetScan:
    """Scan `images`; files that the cache below `folder` knows are not read again."""
    cache = _ScanCache(images, folder)
    scan = scan_files(images, threads=threads, lookup=cache.find, progress=progress)
    cache.update(scan)
    return scan


class _ScanCache:
    """Scans by file name, each with the fingerprint of the scanned file."""

    def __init__(self, images: ImageSet, folder: Path) -> None:
        self._root = str(images.root)
        # Whether links lead out of the root decides which files can be read.
        key = os.fsencode(images.root) + b"\0follow_links" * images.follow_links
        self._path = folder / f"{sha256(key).hexdigest()[:32]}.json"
        self._rows = _read_rows(self._path)

    def find(self, item: ImageItem) -> FileScan | None:
        """Return the cached scan of a file that has not changed since, else None."""
        row = self._rows.get(item.name)
        if not _is_row(row):
            return None
        fingerprint = read_fingerprint(self._root, item.name)
        if fingerprint is None or fingerprint != tuple(row[:_FINGERPRINT_VALUES]):
            return None
        digest, num_bytes, width, height, reason, warning = row[_FINGERPRINT_VALUES:]
        return FileScan(digest, num_bytes, width, height, reason, warning, fingerprint)

    def update(self, scan: DatasetScan) -> None:
        """Write new scans to the cache; a cache that cannot be written is not an error.

        Other rows may belong to another dataset in the same folder (validation images, say): of
        these, the rows of deleted files are dropped.
        """
        new = {
            item.name: row
            for item, file in zip(scan.images.items, scan.files, strict=True)
            if file.fingerprint
            and self._rows.get(item.name) != (row := _make_row(file, file.fingerprint))
        }
        if not new:
            return
        listed = {item.name for item in scan.images.items}
        rows = {
            name: row
            for name, row in self._rows.items()
            if name in listed or read_fingerprint(self._root, name)
        }
        content = {"format": _FORMAT, "rows": rows | new}
        try:
            write_atomically(self._path, json.dumps(content, separators=(",", ":")))
        except StorageError:
            return


def _make_row(file: FileScan, fingerprint: FileFingerprint) -> list[Any]:
    values = (file.sha256, file.num_bytes, file.width, file.height, file.reason, file.warning)
    return [*fingerprint, *values]


def _is_row(row: object) -> TypeGuard[list[Any]]:
    """Whether `row` has the form that `_make_row` returns; the cache file may be damaged."""
    return (
        isinstance(row, list)
        and len(row) == len(_ROW_TYPES)
        and all(map(isinstance, row, _ROW_TYPES))
    )


def _read_rows(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] == _FORMAT and isinstance(content["rows"], dict):
            rows: dict[str, object] = content["rows"]
            return rows
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}
