"""Scans of single files, and a table of scans that Arrow stores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from trialrun.images.decoding.file_io import FileFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_ROWS = 4096  # rows that become Python objects at once
# Columns of a table of scans. The texts are null where they are empty, sha256 where it is unknown.
SCAN_COLUMNS = ("sha256", "size", "width", "height", "reason", "warning")


@dataclass(frozen=True, slots=True)
class FileScan:
    """Scan of one file; `reason` says why the file is unusable and is empty if it is usable.

    `warning` describes an oddity of a usable image. A file with the same `fingerprint` has the
    same content.
    """

    sha256: str
    num_bytes: int
    width: int
    height: int
    reason: str = ""
    warning: str = ""
    fingerprint: FileFingerprint | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScanTable(Sequence[FileScan]):
    """Scans without fingerprints, as an Arrow table with the columns `SCAN_COLUMNS`."""

    table: "pa.Table"

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> FileScan: ...
    @overload
    def __getitem__(self, index: slice) -> "ScanTable": ...
    def __getitem__(self, index: int | slice) -> "FileScan | ScanTable":
        if isinstance(index, slice):
            return ScanTable(self.table.take(np.arange(*index.indices(len(self)))))
        place = range(len(self))[index]
        return _build_scan(*(self.table[name][place].as_py() for name in SCAN_COLUMNS))

    def __iter__(self) -> Iterator[FileScan]:
        for start in range(0, len(self), _CHUNK_ROWS):
            chunk = self.table.slice(start, _CHUNK_ROWS)
            columns = [chunk[name].to_pylist() for name in SCAN_COLUMNS]
            yield from map(_build_scan, *columns)


Scans = tuple[FileScan, ...] | ScanTable


def make_scan_table(scans: Sequence[FileScan]) -> "pa.Table":
    """Return scans as a table with the columns `SCAN_COLUMNS`."""
    import pyarrow as pa

    digests = [bytes.fromhex(scan.sha256) or None for scan in scans]
    columns = {
        "sha256": pa.array(digests, pa.binary(32)),
        "size": pa.array([scan.num_bytes for scan in scans], pa.int64()),
        "width": pa.array([scan.width for scan in scans], pa.int32()),
        "height": pa.array([scan.height for scan in scans], pa.int32()),
        "reason": pa.array([scan.reason or None for scan in scans], pa.string()),
        "warning": pa.array([scan.warning or None for scan in scans], pa.string()),
    }
    return pa.table(columns)


def select_sides(scans: Scans) -> NDArray[np.integer]:
    """Return the width and the height of each usable file, (N, 2)."""
    if isinstance(scans, ScanTable):
        usable = scans.table.filter(scans.table["reason"].is_null())
        return np.stack([usable[name].to_numpy() for name in ("width", "height")], axis=1)
    sides = [(scan.width, scan.height) for scan in scans if not scan.reason]
    return np.asarray(sides, dtype=np.int64).reshape(-1, 2)


def _build_scan(
    sha256: bytes | None,
    num_bytes: int,
    width: int,
    height: int,
    reason: str | None,
    warning: str | None,
) -> FileScan:
    digest = "" if sha256 is None else sha256.hex()
    return FileScan(digest, num_bytes, width, height, reason or "", warning or "")
