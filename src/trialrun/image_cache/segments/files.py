"""Segments: decoded images of one variant, written once and never changed.

A segment is a folder, named by its variant and contents, with these files:

    pixels.npy    (N, S, S, 3) uint8; zeros for an image that could not be decoded
    keys.npy      (N,) the keys of the images
    records.npy   (N,) perceptual hash, aspect ratio and checksum of the pixels
    segment.json  the reasons of undecodable images, and checksums of the two files before
    synced        empty; exists once `pixels.npy` is synced to the disk

The folder gets its name once the first four files are complete. Tensor letters: N images, S the
stored size. An image's position in a segment is its slot.
"""

import os
import secrets
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from trialrun.cache.leases import hold_lease, lock_entry
from trialrun.image_cache.checked_json import read_checked_json
from trialrun.image_cache.segments.keys import KEY_TYPE, Keys

PIXELS = "pixels.npy"
KEYS = "keys.npy"
RECORDS = "records.npy"
DESCRIPTION = "segment.json"
_SYNCED = "synced"

RECORD_TYPE = np.dtype([("hash", "u1", (80,)), ("aspect", "<f4"), ("checksum", "<u8")])

_BLOCK_BYTES = 8 << 20


@dataclass(slots=True, eq=False, weakref_slot=True)
class Segment:
    """One segment, mapped into memory and leased while this object exists.

    `reasons` are those of the undecodable images by slot.
    """

    folder: Path
    pixels: NDArray[np.uint8]
    keys: Keys
    records: NDArray[Any]
    reasons: dict[int, str]
    release: Callable[[], object] = field(default=lambda: None)

    def __len__(self) -> int:
        return len(self.keys)


def map_keys(folder: Path) -> Keys | None:
    """Map the keys of a segment into memory, unverified; None without such a file."""
    try:
        keys = np.load(folder / KEYS, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(keys) if keys.dtype == KEY_TYPE and keys.ndim == 1 else None


def read_segment(folder: Path) -> Segment | None:
    """Map the segment in `folder`; None if it is missing, incomplete or damaged.

    Pixels are not verified.
    """
    values = read_checked_json(folder / DESCRIPTION)
    try:
        if values is None:
            return None
        keys, records = (
            _load_verified(folder / name, values["checksums"][name]) for name in (KEYS, RECORDS)
        )
        pixels = _map_pixels(folder / PIXELS, len(keys), int(values["size"]))
        reasons = {int(slot): str(reason) for slot, reason in values["reasons"].items()}
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None
    if keys.dtype != KEY_TYPE or records.dtype != RECORD_TYPE or len(records) != len(keys):
        return None
    return Segment(folder, pixels, keys, records, reasons)


def is_unreadable(folder: Path) -> bool:
    """Whether the files of a segment cannot be opened though they exist: too many open files, say.

    Such a segment may be intact.
    """
    try:
        for name in (DESCRIPTION, KEYS, RECORDS, PIXELS):
            with (folder / name).open("rb"):
                pass
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def lease_segment(segment: Segment, folder: Path | None = None) -> None:
    """Protect a segment from eviction while `segment` exists; its name will be `folder`.

    A cache that cannot be written has no leases.
    """
    folder = folder or segment.folder
    with suppress(OSError), lock_entry(folder):
        hold_segment(segment, folder)


def hold_segment(segment: Segment, folder: Path) -> None:
    """As `lease_segment`; requires the lock of `folder`.

    Raises:
        OSError: The cache cannot be written.
    """
    segment.release = weakref.finalize(segment, hold_lease(folder))


def _load_verified(path: Path, checksum: str) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path)
    if checksum_array(array) != checksum:
        raise ValueError(f"{path} is damaged")
    return array


def checksum_array(array: NDArray[Any]) -> str:
    """Return the checksum of an array's bytes."""
    return xxh3_64_hexdigest(array.tobytes())


def _map_pixels(path: Path, num_images: int, size: int) -> NDArray[np.uint8]:
    pixels = np.load(path, mmap_mode="r")
    if pixels.shape != (num_images, size, size, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"{path} holds {pixels.shape}")
    return np.asarray(pixels)  # a plain array: indexing a memmap takes longer


def is_intact(segment: Segment, *, threads: int, max_bytes: int | None = None) -> bool:
    """Verify checksums of about `max_bytes` of the pixels, of all by default.

    If the pixels may not be on the disk, all are verified. The first block is chosen at random, so
    that all blocks are verified in the course of many runs.
    """
    if not segment.pixels.nbytes:
        return True
    is_synced = (segment.folder / _SYNCED).exists()
    num_bytes, row_bytes = segment.pixels.nbytes, segment.pixels[:1].nbytes
    is_sampled = max_bytes is not None and is_synced
    stride = max(-(-num_bytes // max(max_bytes or 1, 1)), 1) if is_sampled else 1
    block_rows = max(_BLOCK_BYTES // row_bytes, 1)
    num_blocks = -(-len(segment) // block_rows)
    blocks = range(secrets.randbelow(max(min(stride, num_blocks), 1)), num_blocks, stride)

    def is_block_intact(block: int) -> bool:
        rows = range(block * block_rows, min((block + 1) * block_rows, len(segment)))
        return _are_rows_intact(segment, rows)

    with ThreadPoolExecutor(threads) as pool:
        return all(pool.map(is_block_intact, blocks))


def _are_rows_intact(segment: Segment, rows: range) -> bool:
    """Compare checksums; a late decoder may have written the pixels of an undecodable image.

    The file is read rather than mapped, so that its pages do not count towards the memory.
    """
    path, row_bytes = segment.folder / PIXELS, segment.pixels[:1].nbytes
    checksums = segment.records["checksum"][rows.start : rows.stop].tolist()
    try:
        with path.open("rb", buffering=0) as file:
            start = os.fstat(file.fileno()).st_size - segment.pixels.nbytes
            file.seek(start + rows.start * row_bytes)
            data = memoryview(file.read(len(rows) * row_bytes))
    except OSError:
        return False
    return len(data) == len(rows) * row_bytes and all(
        checksum == 0 or xxh3_64_intdigest(data[offset : offset + row_bytes]) == checksum
        for checksum, offset in zip(checksums, range(0, len(data), row_bytes), strict=True)
    )


def sync_later(folder: Path) -> None:
    """Sync the pixels to the disk in a thread, which then writes the file `synced`.

    Waiting for the disk would take as long as decoding. Until then, opening the segment verifies
    all checksums.
    """
    if not (folder / _SYNCED).exists():
        threading.Thread(target=_sync_pixels, args=(folder,), daemon=True).start()


def _sync_pixels(folder: Path) -> None:
    with suppress(OSError):  # deleted in the meantime, or not writable by this user
        descriptor = os.open(folder / PIXELS, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        (folder / _SYNCED).touch()
