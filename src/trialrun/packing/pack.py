"""A pack: the decoded images of a set in one file, mapped into memory, and how it is written.

    pixels.npy   (N, S, S, 3) uint8; a row of zeros for an image that could not be decoded
    pack.json    verdicts, and a checksum for each block of rows
    synced       empty; there once the disk has the pixels for good

A pack bears its name once the first two are whole. Tensor letters: N images, S the stored size.
"""

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.files import storage_errors
from trialrun.images.preprocessing import Preprocessing
from trialrun.images.survey import Survey
from trialrun.images.workers import ITEM_SECONDS
from trialrun.packing.likeness import Likenesses, as_array
from trialrun.packing.verdicts import Verdicts, decode_all, read_verdicts, write_verdicts

PIXELS = "pixels.npy"
CONTENTS = "pack.json"
SYNCED = "synced"

_BLOCK_ROWS = 256
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
    likenesses: Likenesses
    num_decoded: int = 0

    def usable(self) -> list[int]:
        """The rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, channels last in memory, the images at `rows` in that order."""
        return torch.from_numpy(self.rows[rows]).permute(0, 3, 1, 2)


def pack_bytes(num_images: int, size: int) -> int:
    """About how much room a pack takes."""
    return num_images * (3 * size * size + 64)


def write_pack(
    surveyed: Survey,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_SECONDS,
) -> None:
    """Decode every image into the files of a pack in `folder`.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    size = preprocessing.image_size
    assert size is not None, "a pack has one size"
    verdicts, checksums = Verdicts(), _Checksums()
    blank = np.zeros((size, size, 3), dtype=np.uint8)
    rows = range(len(surveyed.sightings))
    # Written, not mapped: a full disk is then an error with a name, not a bus error, and what is
    # written does not count as this process's memory.
    with storage_errors(folder), (folder / PIXELS).open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), size, size, 3)}
        )
        for decoded in decode_all(surveyed, preprocessing, rows, threads=threads, seconds=seconds):
            pixels = blank if decoded.pixels is None else decoded.pixels
            file.write(pixels.data)
            checksums.add(pixels)
            verdicts.add(decoded)
            progress(1)
    facts = {"size": size, "checksums": checksums.done(), "source": surveyed.images.source}
    write_verdicts(folder / CONTENTS, verdicts, facts)


class _Checksums:
    """A CRC-32 for every block of rows, made as they go by."""

    def __init__(self) -> None:
        self._blocks: list[int] = []
        self._current = 0
        self._num_rows = 0

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """The next row."""
        self._current = zlib.crc32(pixels.data, self._current)
        self._num_rows += 1
        if self._num_rows % _BLOCK_ROWS == 0:
            self._blocks.append(self._current)
            self._current = 0

    def done(self) -> list[int]:
        """All blocks, the last one perhaps short."""
        return self._blocks + ([self._current] if self._num_rows % _BLOCK_ROWS else [])


def sync_later(folder: Path) -> None:
    """Have the pixels brought to the disk by a thread, and note when they are there.

    Waiting for the disk would take as long as decoding; the checksums stand in until it is done.
    """
    if not (folder / SYNCED).exists():
        threading.Thread(target=_sync_and_note, args=(folder,), daemon=True).start()


def _sync_and_note(folder: Path) -> None:
    with suppress(OSError):  # deleted meanwhile, or not ours to write
        descriptor = os.open(folder / PIXELS, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        (folder / SYNCED).touch()


def read_pack(folder: Path, *, threads: int, check: bool = True) -> Pack | None:
    """The pack in `folder`; None where it is missing, incomplete or damaged.

    Without `check` pixels are taken for what was written, as whoever just wrote them may do.
    """
    found = read_verdicts(folder / CONTENTS)
    if found is None:
        return None
    verdicts, facts = found
    path, size = folder / PIXELS, int(facts["size"])
    try:
        if check and not _is_sound(path, len(verdicts.reasons), size, facts["checksums"], threads):
            return None
        rows = _mapped(path, len(verdicts.reasons), size)
    except (OSError, ValueError):
        return None
    return Pack(rows, tuple(verdicts.reasons), as_array(bytes(verdicts.likenesses)))


def _mapped(path: Path, num_rows: int, size: int) -> NDArray[np.uint8]:
    if num_rows == 0:
        return np.zeros((0, size, size, 3), dtype=np.uint8)
    rows: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    if rows.shape != (num_rows, size, size, 3) or rows.dtype != np.uint8:
        raise ValueError(f"{path} holds {rows.shape}")
    return rows


def _is_sound(path: Path, num_rows: int, size: int, checksums: list[int], threads: int) -> bool:
    row_bytes = 3 * size * size
    start = path.stat().st_size - num_rows * row_bytes
    if start < 0 or len(checksums) != -(-num_rows // _BLOCK_ROWS):
        return False
    block_bytes = _BLOCK_ROWS * row_bytes
    is_synced = (path.parent / SYNCED).exists()
    stride = max(-(-num_rows * row_bytes // _CHECKED_BYTES), 1) if is_synced else 1

    def is_whole(block: int) -> bool:
        with path.open("rb", buffering=0) as file:
            file.seek(start + block * block_bytes)
            remaining = min(block_bytes, (num_rows - block * _BLOCK_ROWS) * row_bytes)
            return _checksum(file, remaining) == checksums[block]

    blocks = sorted({*range(0, len(checksums), stride), len(checksums) - 1} - {-1})
    with ThreadPoolExecutor(threads) as pool:
        return all(pool.map(is_whole, blocks))


def _checksum(file: Any, num_bytes: int) -> int:
    checksum = 0
    for piece in _pieces(file, num_bytes):
        checksum = zlib.crc32(piece, checksum)
    return checksum


def _pieces(file: BinaryIO, num_bytes: int) -> Iterator[bytes]:
    while num_bytes > 0 and (piece := file.read(min(num_bytes, 1 << 22))):
        num_bytes -= len(piece)
        yield piece
