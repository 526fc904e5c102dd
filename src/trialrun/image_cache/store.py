"""A pack: the decoded images of a set in one file, mapped into memory, and how it is written.

    pixels.npy   (N, S, S, 3) uint8; a row of zeros for an image that could not be decoded
    pack.json    verdicts, and a checksum for each block of rows
    synced       empty; there once the disk has the pixels for good

A pack bears its name once the first two are whole. Tensor letters: N images, S the stored size.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xxhash import xxh3_64_intdigest

from trialrun.files import translate_storage_errors
from trialrun.image_cache.decode_results import (
    JUDGED_TOGETHER,
    DecodeResults,
    ResultAccumulator,
    decode_rows,
    read_results,
    write_results,
)
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.thread_pool import ITEM_TIMEOUT_SECONDS, iterate_chunks

_PIXELS = "pixels.npy"
CONTENTS = "pack.json"
_SYNCED = "synced"

_BLOCK_ROWS = 256
_READ_BYTES = 1 << 20
# Read again on opening, about 0.1 s; of more, evenly spread blocks. All of it where the pack is not
# known to have reached the disk.
_CHECKED_BYTES = 256 * 10**6


@dataclass(slots=True)
class Pack:
    """Decoded images: a row an image of its set, `reasons[row]` empty where it is usable.

    `num_decoded` counts what had to be decoded for it in this process: 0 where it was found.
    """

    rows: NDArray[np.uint8]
    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    num_decoded: int = 0

    def usable(self) -> list[int]:
        """The rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, channels last in memory, the images at `rows` in that order."""
        return torch.from_numpy(self.rows[rows]).permute(0, 3, 1, 2)


def estimate_pack_bytes(num_images: int, size: int) -> int:
    """About how much room a pack takes."""
    return num_images * (3 * size * size + 64)


def write_pack(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_TIMEOUT_SECONDS,
) -> DecodeResults:
    """Decode every image into the files of a pack in `folder`; what was found of them.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    size = preprocessing.image_size
    assert size is not None, "a pack has one size"
    tally, checksums = ResultAccumulator(), list[int]()
    rows = range(len(scan.files))
    with translate_storage_errors(folder), _RowFile(folder / _PIXELS, len(rows), size) as file:
        decoded = decode_rows(
            scan, preprocessing, rows, threads=threads, seconds=seconds, keep=file.put
        )
        for some in iterate_chunks(decoded, JUDGED_TOGETHER):
            tally.extend(some)
            checksums += [each.checksum for each in some]
            progress(len(some))
    facts = {
        "size": size,
        "checksums": _combine_blocks(checksums),
        "source": scan.images.source,
    }
    verdicts = tally.verdicts()
    write_results(folder / CONTENTS, verdicts, facts)
    return verdicts


class _RowFile:
    """The file of pixels while it is written, by any thread, in any order.

    Written, not mapped: a full disk is then an error with a name, not a bus error, and what is
    written does not count as this process's memory.
    """

    def __init__(self, path: Path, num_rows: int, size: int) -> None:
        self._file = path.open("wb")
        shape = (num_rows, size, size, 3)
        np.lib.format.write_array_header_2_0(
            self._file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        self._start = self._file.tell()
        self._row_bytes = 3 * size * size
        self._lock = threading.Lock()
        self._num_writing = 0
        self._is_complete = False
        self._file.truncate(self._start + num_rows * self._row_bytes)

    def __enter__(self) -> "_RowFile":
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._is_complete = True
            self._close_if_unused()

    def put(self, row: int, pixels: NDArray[np.uint8]) -> int:
        """Write a row; its checksum. A thread that was given up and comes late writes nothing.

        Raises:
            OSError: The disk is full.
        """
        with self._lock:
            if self._is_complete:
                return 0
            self._num_writing += 1
        try:
            self._write(pixels.data.cast("B"), self._start + row * self._row_bytes)
        finally:
            with self._lock:
                self._num_writing -= 1
                self._close_if_unused()
        return xxh3_64_intdigest(pixels.data)

    def _write(self, rest: memoryview, place: int) -> None:
        while rest:
            written = os.pwrite(self._file.fileno(), rest, place)
            rest, place = rest[written:], place + written

    def _close_if_unused(self) -> None:
        if self._is_complete and not self._num_writing:
            self._file.close()


def _combine_blocks(checksums: list[int]) -> list[int]:
    """A checksum for each block, out of its rows' own; 0 stands for a row without pixels."""
    blocks = range(0, len(checksums), _BLOCK_ROWS)
    return [_checksum_rows(checksums[start : start + _BLOCK_ROWS]) for start in blocks]


def _checksum_rows(checksums: list[int]) -> int:
    return xxh3_64_intdigest(np.asarray(checksums, dtype="<u8").tobytes())


def sync_later(folder: Path) -> None:
    """Have the pixels brought to the disk by a thread, and note when they are there.

    Waiting for the disk would take as long as decoding; the checksums stand in until it is done.
    """
    if not (folder / _SYNCED).exists():
        threading.Thread(target=_sync_and_note, args=(folder,), daemon=True).start()


def _sync_and_note(folder: Path) -> None:
    with suppress(OSError):  # deleted meanwhile, or not ours to write
        descriptor = os.open(folder / _PIXELS, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        (folder / _SYNCED).touch()


def read_pack(folder: Path, *, threads: int, check: bool = True) -> Pack | None:
    """The pack in `folder`; None where it is missing, incomplete or damaged.

    Without `check` pixels are taken for what was written, as whoever just wrote them may do.
    """
    found = read_results(folder / CONTENTS)
    if found is None:
        return None
    verdicts, facts = found
    path, size = folder / _PIXELS, int(facts["size"])
    try:
        if check and not _is_intact(path, verdicts.reasons, size, facts["checksums"], threads):
            return None
        rows = _map_rows(path, len(verdicts.reasons), size)
    except (OSError, ValueError):
        return None
    return Pack(rows, verdicts.reasons, verdicts.perceptual_hashes)


def _map_rows(path: Path, num_rows: int, size: int) -> NDArray[np.uint8]:
    if num_rows == 0:
        return np.zeros((0, size, size, 3), dtype=np.uint8)
    rows: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    if rows.shape != (num_rows, size, size, 3) or rows.dtype != np.uint8:
        raise ValueError(f"{path} holds {rows.shape}")
    return rows


def _is_intact(
    path: Path, reasons: tuple[str, ...], size: int, checksums: list[int], threads: int
) -> bool:
    num_rows, row_bytes = len(reasons), 3 * size * size
    start = path.stat().st_size - num_rows * row_bytes
    if start < 0 or len(checksums) != -(-num_rows // _BLOCK_ROWS):
        return False
    is_synced = (path.parent / _SYNCED).exists()
    stride = max(-(-num_rows * row_bytes // _CHECKED_BYTES), 1) if is_synced else 1

    def is_whole(block: int) -> bool:
        first = block * _BLOCK_ROWS
        with path.open("rb", buffering=_READ_BYTES) as file:
            file.seek(start + first * row_bytes)
            found = [
                _row_checksum(file.read(row_bytes), reason)
                for reason in reasons[first : first + _BLOCK_ROWS]
            ]
        return _checksum_rows(found) == checksums[block]

    blocks = sorted({*range(0, len(checksums), stride), len(checksums) - 1} - {-1})
    with ThreadPoolExecutor(threads) as pool:
        return all(pool.map(is_whole, blocks))


def _row_checksum(data: bytes, reason: str) -> int:
    """0 for an image that is not used: a decoder that was given up may still have written it."""
    return 0 if reason else xxh3_64_intdigest(data)
