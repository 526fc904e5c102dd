"""Cache of file scans: a file that has not changed is not read again.

A file counts as unchanged while its size, inode, modification time and change time stay the same
(no user can set the change time back). A file that changed less than two seconds before it was read
is not cached. The cache has one file per root folder: a line of JSON that names the root, and one
with the scans. Files of roots that no longer exist are deleted.
"""

import json
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeGuard

from trialrun.errors import StorageError
from trialrun.files import touch_file, write_atomically
from trialrun.image_cache.shard_scans import find_scans_path, scan_shards_with_cache
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.decoding.file_io import FileFingerprint, read_fingerprint
from trialrun.images.scanning.file_scan import FileScan, Progress
from trialrun.images.scanning.scan import (
    DatasetScan,
    ignore_progress,
    scan_files,
)

_used_files: set[Path] = set()  # files of scans that this process has used

_FORMAT = 3  # raised when a header would be scanned with another result
_MAX_HEADER = 1 << 16  # characters; the line of older versions has all scans
_FINGERPRINT_VALUES = 4
_ROW_TYPES = (int, int, int, int, str, int, int, int, str, str)  # the fingerprint, then the scan


def scan_with_cache(
    images: ImageSet, folder: Path, *, threads: int, progress: Progress = ignore_progress
) -> DatasetScan:
    """Scan `images`; files that the cache below `folder` knows are not read again."""
    if images.shards is not None:
        path = find_scans_path(images.shards.key, folder)
        _used_files.add(path)
        return scan_shards_with_cache(images, path, threads=threads, progress=progress)
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
        _used_files.add(self._path)
        if not new:
            touch_file(self._path)
            return
        listed = {item.name for item in scan.images.items}
        rows = {
            name: row
            for name, row in self._rows.items()
            if name in listed or read_fingerprint(self._root, name)
        }
        header = json.dumps({"format": _FORMAT, "root": self._root})
        content = json.dumps(rows | new, separators=(",", ":"))
        try:
            write_atomically(self._path, f"{header}\n{content}\n")
        except StorageError:
            return
        drop_stale_scans(self._path.parent)


def is_scan_in_use(path: Path) -> bool:
    """Whether this process has used a file of scans: the next run will need it, too."""
    return path in _used_files


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
        header, content = path.read_text("utf-8").split("\n", 1)
        rows = json.loads(content)
        if json.loads(header)["format"] == _FORMAT and isinstance(rows, dict):
            return rows
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}


def drop_stale_scans(folder: Path) -> None:
    """Delete the scans of roots that no longer exist, and those of older versions."""
    for path in folder.glob("*.json"):
        root = _read_root(path)
        if root is None or not os.path.lexists(root):
            with suppress(OSError):
                path.unlink()


def _read_root(path: Path) -> str | None:
    """Return the root that a file of scans names; None if the file has another format."""
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline(_MAX_HEADER))
        return str(header["root"]) if header["format"] == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
