"""Writing of segments: images that are decoded, and images copied from smaller segments.

A segment of results is one whose images have no pixels: their stored size is 0.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from trialrun.files import translate_storage_errors
from trialrun.image_cache.decode_results import (
    RESULTS_PER_CHUNK,
    DecodedImage,
    PixelSink,
    decode_rows,
)
from trialrun.image_cache.segments.files import PIXELS, Segment
from trialrun.image_cache.segments.keys import Keys, shorten_digest
from trialrun.image_cache.segments.table import SegmentTable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.thread_pool import ITEM_TIMEOUT_SECONDS, iterate_chunks

_MAX_SEGMENTS = 8  # of one dataset
# Per image: its key and record, and the result of decoding an image that found no room.
_BYTES_BESIDE_PIXELS = 256


def estimate_bytes(num_images: int, size: int) -> int:
    """Return the approximate size of a segment in bytes."""
    return num_images * (3 * size * size + _BYTES_BESIDE_PIXELS)


@dataclass(frozen=True, slots=True)
class SegmentContents:
    """What a segment is made of: rows of a scan to decode, their keys, and segments to copy."""

    scan: DatasetScan
    rows: NDArray[np.int64]
    keys: Keys
    copied: Sequence[Segment] = ()

    def __len__(self) -> int:
        return len(self.rows) + sum(map(len, self.copied))

    def name(self) -> str:
        """Return a name for these contents."""
        return shorten_digest(b"".join(keys.tobytes() for keys in self._list_keys()))

    def _list_keys(self) -> list[Keys]:
        return [self.keys, *(segment.keys for segment in self.copied)]


def choose_copied(segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments that a new one takes over: the smallest, if there would be too many.

    Each adds files, locks and checks to every run that uses it. As the smallest are joined, an
    image is copied a few times at most, even if every run adds images.
    """
    if len(segments) < _MAX_SEGMENTS:
        return []
    return sorted(segments, key=len)[: len(segments) + 1 - _MAX_SEGMENTS // 2]


def write_segment(
    contents: SegmentContents,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_TIMEOUT_SECONDS,
) -> dict[int, str]:
    """Write a segment's files into `folder`, and return the reasons of transient failures by slot.

    Images that failed for such a reason have no key: the next run decodes them again.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    size = preprocessing.image_size
    assert size is not None, "a segment has one size"
    slots = {row: slot for slot, row in enumerate(contents.rows.tolist())}
    with translate_storage_errors(folder), _PixelFile(folder / PIXELS, len(contents), size) as file:
        table = _decode(
            contents,
            preprocessing,
            lambda row, pixels: file.write_row(slots[row], pixels),
            threads=threads,
            progress=progress,
            seconds=seconds,
        )
        for segment in contents.copied:
            for slot in np.flatnonzero(segment.records["checksum"]).tolist():
                file.write_row(table.num_filled + slot, segment.pixels[slot])
            table.add_copied(segment)
        table.write(folder, size, contents.scan.images.source)
    return table.transient


def decode_results(
    contents: SegmentContents,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_TIMEOUT_SECONDS,
) -> SegmentTable:
    """Decode images for their results alone; the pixels are discarded."""
    table = _decode(
        contents,
        preprocessing,
        _discard_pixels,
        threads=threads,
        progress=progress,
        seconds=seconds,
    )
    for segment in contents.copied:
        table.add_copied(segment)
    return table


def write_results(table: SegmentTable, folder: Path, source: str) -> None:
    """Write a segment of results into `folder`.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    with translate_storage_errors(folder):
        np.save(folder / PIXELS, np.zeros((len(table.keys), 0, 0, 3), np.uint8))
        table.write(folder, 0, source)


def _discard_pixels(_row: int, _pixels: NDArray[np.uint8]) -> int:
    return 0


def _decode(
    contents: SegmentContents,
    preprocessing: Preprocessing,
    sink: PixelSink,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float,
) -> SegmentTable:
    """Decode the images of a new segment, and fill the first slots of its table."""
    table = SegmentTable.allocate(len(contents))
    decoded = decode_rows(
        contents.scan,
        preprocessing,
        contents.rows.tolist(),
        threads=threads,
        seconds=seconds,
        sink=sink,
    )
    chunks: Iterator[Sequence[DecodedImage]] = iterate_chunks(decoded, RESULTS_PER_CHUNK)
    table.add_decoded(contents.keys, chunks, progress)
    return table


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
