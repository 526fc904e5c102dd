"""Packs: the decoded images of one dataset in one memory-mapped file.

A pack is a folder with these files:

    pixels.npy   (N, S, S, 3) uint8; zeros for an image that could not be decoded
    pack.json    the decode results, and a checksum for each block of rows
    synced       empty; exists once `pixels.npy` is synced to the disk

The folder gets its name once the first two files are complete. Tensor letters: N images, S the
stored size.
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
    RESULTS_PER_CHUNK,
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
# Bytes whose checksums are verified on opening, about 0.1 s. Of a larger pack, evenly spread blocks
# are verified; all blocks where the pack is not known to be synced to the disk.
_CHECKED_BYTES = 256 * 10**6


@dataclass(slots=True)
class Pack:
    """The decoded images of one dataset, one row per image, mapped into memory.

    `reasons[row]` is empty where the image is usable. `aspects` are the images' aspect ratios, as
    in `DecodeResults`. `num_decoded` counts the images that this process decoded: 0 for a pack read
    from the cache.
    """

    rows: NDArray[np.uint8]
    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    aspects: NDArray[np.float32]
    num_decoded: int = 0

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the images at `rows` in that order, (N, 3, S, S) uint8, channels last."""
        return torch.from_numpy(self.rows[rows]).permute(0, 3, 1, 2)


def estimate_pack_bytes(num_images: int, size: int) -> int:
    """Return the approximate size of a pack in bytes."""
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
    """Decode every image, write a pack's files into `folder`, and return the decode results.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    size = preprocessing.image_size
    assert size is not None, "a pack has one size"
    accumulator, checksums = ResultAccumulator(), list[int]()
    rows = range(len(scan.files))
    with translate_storage_errors(folder), _PixelFile(folder / _PIXELS, len(rows), size) as file:
        decoded = decode_rows(
            scan, preprocessing, rows, threads=threads, seconds=seconds, sink=file.write_row
        )
        for chunk in iterate_chunks(decoded, RESULTS_PER_CHUNK):
            accumulator.extend(chunk)
            checksums += [image.checksum for image in chunk]
            progress(len(chunk))
    metadata = {
        "size": size,
        "checksums": _combine_blocks(checksums),
        "source": scan.images.source,
    }
    results = accumulator.results()
    write_results(folder / CONTENTS, results, metadata)
    return results


class _PixelFile:
    """`pixels.npy` while it is written, by any thread and in any order of rows.

    It is written rather than mapped: a full disk then raises an error instead of a bus error, and
    written rows do not count towards this process's memory.
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

    def __enter__(self) -> "_PixelFile":
        return self

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._is_complete = True
            self._close_if_unused()

    def write_row(self, row: int, pixels: NDArray[np.uint8]) -> int:
        """Write a row and return its checksum.

        Writes nothing and returns 0 once the file is complete, for a thread that timed out.

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

    def _write(self, remaining: memoryview, offset: int) -> None:
        while remaining:
            num_written = os.pwrite(self._file.fileno(), remaining, offset)
            remaining, offset = remaining[num_written:], offset + num_written

    def _close_if_unused(self) -> None:
        if self._is_complete and not self._num_writing:
            self._file.close()


def _combine_blocks(checksums: list[int]) -> list[int]:
    """Return a checksum for each block of rows; a row without pixels has the checksum 0."""
    starts = range(0, len(checksums), _BLOCK_ROWS)
    return [_combine_checksums(checksums[start : start + _BLOCK_ROWS]) for start in starts]


def _combine_checksums(checksums: list[int]) -> int:
    return xxh3_64_intdigest(np.asarray(checksums, dtype="<u8").tobytes())


def sync_later(folder: Path) -> None:
    """Sync the pixels to the disk in a thread, which then writes the file `synced`.

    Waiting for the disk would take as long as decoding. Until then, opening the pack verifies all
    checksums.
    """
    if not (folder / _SYNCED).exists():
        threading.Thread(target=_sync_pixels, args=(folder,), daemon=True).start()


def _sync_pixels(folder: Path) -> None:
    with suppress(OSError):  # deleted in the meantime, or not writable by this user
        descriptor = os.open(folder / _PIXELS, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        (folder / _SYNCED).touch()


def read_pack(folder: Path, *, threads: int, check: bool = True) -> Pack | None:
    """Return the pack in `folder`, or None if it is missing, incomplete or damaged.

    Without `check` no checksum is verified, for a pack that this process has just written.
    """
    stored = read_results(folder / CONTENTS)
    if stored is None:
        return None
    results, metadata = stored
    path, size = folder / _PIXELS, int(metadata["size"])
    try:
        if check and not _is_intact(path, results.reasons, size, metadata["checksums"], threads):
            return None
        rows = _map_rows(path, len(results.reasons), size)
    except (OSError, ValueError):
        return None
    return Pack(rows, results.reasons, results.perceptual_hashes, results.aspects)


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

    def is_block_intact(block: int) -> bool:
        first = block * _BLOCK_ROWS
        with path.open("rb", buffering=_READ_BYTES) as file:
            file.seek(start + first * row_bytes)
            row_checksums = [
                _checksum_row(file.read(row_bytes), reason)
                for reason in reasons[first : first + _BLOCK_ROWS]
            ]
        return _combine_checksums(row_checksums) == checksums[block]

    blocks = sorted({*range(0, len(checksums), stride), len(checksums) - 1} - {-1})
    with ThreadPoolExecutor(threads) as pool:
        return all(pool.map(is_block_intact, blocks))


def _checksum_row(data: bytes, reason: str) -> int:
    """Return a row's checksum; 0 for an unusable image, as a late decoder may have written it."""
    return 0 if reason else xxh3_64_intdigest(data)
