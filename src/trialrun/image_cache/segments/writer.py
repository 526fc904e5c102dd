"""Writing of segments: images that are decoded, and images copied from smaller segments."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from trialrun.files import translate_storage_errors
from trialrun.image_cache.checked_json import write_checked_json
from trialrun.image_cache.decode_results import (
    RESULTS_PER_CHUNK,
    DecodedImage,
    ResultAccumulator,
    decode_rows,
)
from trialrun.image_cache.segments.files import (
    DESCRIPTION,
    KEYS,
    PIXELS,
    RECORD_TYPE,
    RECORDS,
    Segment,
    checksum_array,
)
from trialrun.image_cache.segments.keys import Keys, shorten_digest
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.thread_pool import ITEM_TIMEOUT_SECONDS, iterate_chunks

_MAX_SEGMENTS = 8  # of one dataset
_BYTES_BESIDE_PIXELS = 128  # per image: its key and record


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
    table = _Table(
        np.zeros(len(contents), contents.keys.dtype), np.zeros(len(contents), RECORD_TYPE)
    )
    with translate_storage_errors(folder), _PixelFile(folder / PIXELS, len(contents), size) as file:
        slots = {row: slot for slot, row in enumerate(contents.rows.tolist())}
        decoded = decode_rows(
            contents.scan,
            preprocessing,
            contents.rows.tolist(),
            threads=threads,
            seconds=seconds,
            sink=lambda row, pixels: file.write_row(slots[row], pixels),
        )
        table.add_decoded(contents.keys, iterate_chunks(decoded, RESULTS_PER_CHUNK), progress)
        for segment in contents.copied:
            table.add_copied(segment, file)
        table.write(folder, {"size": size, "source": contents.scan.images.source})
    return table.transient


@dataclass(slots=True)
class _Table:
    """Keys and records of a segment while it is written; `num_filled` slots are complete."""

    keys: Keys
    records: NDArray[Any]
    reasons: dict[int, str] = field(default_factory=dict)
    transient: dict[int, str] = field(default_factory=dict)
    num_filled: int = 0

    def add_decoded(
        self,
        keys: Keys,
        chunks: Iterable[Sequence[DecodedImage]],
        progress: Callable[[int], None],
    ) -> None:
        """Fill the next slots with the results of decoding; `keys` are those of the images."""
        accumulator = ResultAccumulator()
        for chunk in chunks:
            accumulator.extend(chunk)
            for slot, image in enumerate(chunk, self.num_filled):
                self._add_image(slot, keys[slot], image)
            self.num_filled += len(chunk)
            progress(len(chunk))
        results = accumulator.results()
        self.records["hash"][: self.num_filled] = results.perceptual_hashes
        self.records["aspect"][: self.num_filled] = results.aspects

    def _add_image(self, slot: int, key: bytes, image: DecodedImage) -> None:
        self.records["checksum"][slot] = image.checksum
        if image.is_transient:
            self.transient[slot] = image.reason
            return
        self.keys[slot] = key
        if image.reason:
            self.reasons[slot] = image.reason

    def add_copied(self, segment: Segment, file: "_PixelFile") -> None:
        """Fill the next slots with the images of another segment, which is intact."""
        start, end = self.num_filled, self.num_filled + len(segment)
        self.keys[start:end], self.records[start:end] = segment.keys, segment.records
        self.reasons |= {start + slot: reason for slot, reason in segment.reasons.items()}
        for slot in np.flatnonzero(segment.records["checksum"]).tolist():
            file.write_row(start + slot, segment.pixels[slot])
        self.num_filled = end

    def write(self, folder: Path, values: dict[str, Any]) -> None:
        """Write all files but the pixels."""
        np.save(folder / KEYS, self.keys)
        np.save(folder / RECORDS, self.records)
        checksums = {KEYS: checksum_array(self.keys), RECORDS: checksum_array(self.records)}
        write_checked_json(
            folder / DESCRIPTION,
            values
            | {"num_images": len(self.keys), "reasons": self.reasons, "checksums": checksums},
        )


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
