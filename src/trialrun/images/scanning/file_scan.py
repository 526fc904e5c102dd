"""Scans of single files, and a table of scans that Arrow stores."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from trialrun.images.decoding.file_io import FileContent, FileFingerprint
from trialrun.images.decoding.header import TransientDecodeError, UndecodableError, read_header
from trialrun.images.scanning.thread_pool import TIMEOUT_REASON

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int], None]  # gets numbers of images that have been scanned

_DIGEST_BYTES = 32
_NO_DIGEST = bytes(_DIGEST_BYTES)
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


def scan_content(name: str, content: FileContent) -> FileScan:
    """Hash a file's content and parse its header; `name` is the image's."""
    digest, size = hashlib.sha256(content.data).hexdigest(), len(content.data)
    try:
        header = read_header(content.data)
    except TransientDecodeError as error:
        # Without hash and fingerprint no cache stores the reason.
        return FileScan("", size, 0, 0, str(error))
    except UndecodableError as error:
        return FileScan(digest, size, 0, 0, str(error), fingerprint=content.fingerprint)
    warning = header.warning(name)
    return FileScan(digest, size, header.width, header.height, "", warning, content.fingerprint)


def report_timeout(_item: object) -> FileScan:
    """Return the scan of a file that took too long."""
    return FileScan("", 0, 0, 0, TIMEOUT_REASON)


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
    columns = ScanColumns(len(scans))
    columns.add(scans)
    return columns.build()


class ScanColumns:
    """Collects the scans of N files in the columns of a table, 48 bytes per file."""

    def __init__(self, num_files: int) -> None:
        self._digests = np.zeros((num_files, _DIGEST_BYTES), dtype=np.uint8)
        self._sizes = np.zeros(num_files, dtype=np.int64)
        self._sides = np.zeros((2, num_files), dtype=np.int32)  # width, height
        self._reasons: dict[int, str] = {}
        self._warnings: dict[int, str] = {}
        self._num_added = 0

    def add(self, scans: Sequence[FileScan]) -> None:
        """Add the scans of the next files."""
        place = slice(self._num_added, self._num_added + len(scans))
        digests = b"".join(bytes.fromhex(scan.sha256) or _NO_DIGEST for scan in scans)
        self._digests[place] = np.frombuffer(digests, np.uint8).reshape(-1, _DIGEST_BYTES)
        self._sizes[place] = [scan.num_bytes for scan in scans]
        self._sides[:, place] = np.array([(s.width, s.height) for s in scans]).reshape(-1, 2).T
        for number, scan in enumerate(scans, start=self._num_added):
            if scan.reason:
                self._reasons[number] = scan.reason
            if scan.warning:
                self._warnings[number] = scan.warning
        self._num_added += len(scans)

    def build(self) -> "pa.Table":
        """Return the table with the columns `SCAN_COLUMNS`, which shares memory with this."""
        import pyarrow as pa

        is_known = np.packbits(self._digests.any(axis=1), bitorder="little")
        buffers = [pa.py_buffer(is_known), pa.py_buffer(self._digests)]
        kind = pa.binary(_DIGEST_BYTES)
        width, height = self._sides
        columns = (
            pa.FixedSizeBinaryArray.from_buffers(kind, len(self._sizes), buffers),
            pa.array(self._sizes),
            pa.array(width),
            pa.array(height),
            self._build_texts(self._reasons),
            self._build_texts(self._warnings),
        )
        return pa.table(dict(zip(SCAN_COLUMNS, columns, strict=True)))

    def _build_texts(self, texts: Mapping[int, str]) -> "pa.Array":
        import pyarrow as pa

        if not texts:
            return pa.nulls(len(self._sizes), pa.string())
        return pa.array(map(texts.get, range(len(self._sizes))), pa.string())


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
