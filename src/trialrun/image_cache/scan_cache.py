"""What was found of files that have not changed since: they are not read again to be surveyed.

A file counts as unchanged while its size, inode and times of change (which nobody can set back)
stay the same; one that was changed less than two seconds before it was read is not trusted. One
ledger a root folder, kept in the cache.
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

_FORMAT = 2  # raised when a header would be judged differently
_STAMP_VALUES = 4
_ROW_TYPES = (int, int, int, int, str, int, int, int, str, str)  # the stamp, then the sighting


def scan_with_cache(
    images: ImageSet, folder: Path, *, threads: int, progress: Progress = ignore_progress
) -> DatasetScan:
    """The survey of `images`; files that the ledger below `folder` knows are not read again."""
    ledger = _ScanCache(images.root, folder)
    scan = scan_files(images, threads=threads, lookup=ledger.known, progress=progress)
    ledger.keep(scan)
    return scan


class _ScanCache:
    """Sightings by name, each with the stamp that its file had."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = str(root)
        self._path = folder / f"{sha256(os.fsencode(root)).hexdigest()[:32]}.json"
        self._rows = _read_rows(self._path)

    def known(self, item: ImageItem) -> FileScan | None:
        """What was found of a file that has not changed since."""
        row = self._rows.get(item.name)
        if not _is_row(row):
            return None
        stamp = read_fingerprint(self._root, item.name)
        if stamp is None or stamp != tuple(row[:_STAMP_VALUES]):
            return None
        digest, num_bytes, width, height, reason, warning = row[_STAMP_VALUES:]
        return FileScan(digest, num_bytes, width, height, reason, warning, stamp)

    def keep(self, scan: DatasetScan) -> None:
        """Write down what is new; a cache that cannot be written is no fault.

        Another set of the same folder (validation, say) may have written the other rows: of those,
        what is gone from the disk is forgotten.
        """
        new = {
            item.name: row
            for item, seen in zip(scan.images.items, scan.files, strict=True)
            if seen.fingerprint
            and self._rows.get(item.name) != (row := _make_row(seen, seen.fingerprint))
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


def _make_row(seen: FileScan, stamp: FileFingerprint) -> list[Any]:
    found = (seen.sha256, seen.num_bytes, seen.width, seen.height, seen.reason, seen.warning)
    return [*stamp, *found]


def _is_row(row: object) -> TypeGuard[list[Any]]:
    """Whether this is what `_row` makes: what lies in the cache may have been damaged there."""
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
