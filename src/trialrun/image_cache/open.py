"""The decoded images of a surveyed set: found in the cache, made, or decoded as they are asked for.

A pack's key is the hash of its files' contents, of the preprocessing and of the decoder's version,
so that a pack is never stale and the same images under other names are not decoded again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.cache.eviction import CacheEntry, evict_lru
from trialrun.cache.leases import lock_or_report
from trialrun.errors import StorageError
from trialrun.files import create_directory, remove_directory, sweep_drafts, sweep_unlocked_drafts
from trialrun.image_cache import entries
from trialrun.image_cache.decode_results import decode_and_discard, read_results, write_results
from trialrun.image_cache.on_the_fly import OnTheFlyImages, decode_on_the_fly
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.image_cache.store import Pack, estimate_pack_bytes, read_pack, sync_later, write_pack
from trialrun.images.decoding.decode import DECODER_VERSION
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, ignore_progress

_FORMAT = 6  # of the files of a pack


class DecodedImages(Protocol):
    """A row an image of a set; a `Pack`, or what stands in for one."""

    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    num_decoded: int

    def usable(self) -> list[int]:
        """The rows that hold an image."""
        ...

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, the images at `rows` in that order."""
        ...


def _ignore_note(_text: str) -> None:
    """Tell nobody."""


def _no_other_entries() -> Sequence[CacheEntry]:
    """Only packs may go for a new one."""
    return ()


def open_pack(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    limit_bytes: int,
    progress: Callable[[int], None] = ignore_progress,
    note: Callable[[str], None] = _ignore_note,
    others: Callable[[], Sequence[CacheEntry]] = _no_other_entries,
) -> DecodedImages:
    """The decoded images of a surveyed set: the pack below `folder`, made if it is not there.

    For a new pack older ones go, and of `others` too what was used longer ago. Where it would still
    not fit under `limit_bytes` or on the disk, images are decoded as they are asked for, and `note`
    is told.

    Raises:
        StorageError: The folder cannot be written.
    """
    place = folder / _compute_pack_key(scan, preprocessing)
    if (found := read_pack(place, threads=threads)) is not None:
        entries.touch_entry(place)
        sync_later(place)
        return found
    source = scan.images.source
    waiting = f"another process is decoding {source}; waiting for it"
    with lock_or_report(place, waiting=waiting, report=note):
        if (found := read_pack(place, threads=threads)) is not None:
            return found  # another process made it meanwhile
        sweep_drafts(place)
        if place.exists():
            note(f"the cached copy of {source} is damaged and is made again")
            remove_directory(place)
        made = None
        being_written = sweep_unlocked_drafts(folder)
        kept = [*entries.list_evictable(folder), *others()]
        room = _CacheSpace(folder, limit_bytes, being_written)
        if _has_room(scan, preprocessing, room, kept, note):
            made = _write_new_pack(scan, preprocessing, place, threads, progress, note)
        return made or _open_on_the_fly(scan, preprocessing, place, threads, progress, note)


@dataclass(frozen=True, slots=True)
class _CacheSpace:
    """Where packs lie, how many bytes they may have, and how many others are writing there now."""

    folder: Path
    limit_bytes: int
    being_written: int


def _has_room(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    room: _CacheSpace,
    kept: Sequence[CacheEntry],
    note: Callable[[str], None],
) -> bool:
    assert preprocessing.image_size is not None, "a pack has one size"
    needed = estimate_pack_bytes(len(scan.files), preprocessing.image_size)
    if evict_lru(room.folder, kept, needed, limit_bytes=room.limit_bytes - room.being_written):
        return True
    others = f", {room.being_written / 1e9:.3g} GB being written" if room.being_written else ""
    note(
        f"{scan.images.source} would take {needed / 1e9:.3g} GB decoded, which does not fit "
        f"into {room.folder} (limit {room.limit_bytes / 1e9:g} GB{others}): images are decoded as "
        "they are needed"
    )
    return False


def _write_new_pack(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    place: Path,
    threads: int,
    progress: Callable[[int], None],
    note: Callable[[str], None],
) -> Pack | None:
    """A new pack; None where the disk turned out to be too small after all.

    It is mapped before it has its name: another process may delete it from then on.
    """
    made, num_transient = None, 0
    try:
        with suppress(_NotCachedError), create_directory(place, durable=False) as draft:
            written = write_pack(scan, preprocessing, draft, threads=threads, progress=progress)
            made = read_pack(draft, threads=threads, check=False)
            if made is None:
                raise StorageError(f"{draft} does not hold what was written")
            made.num_decoded = len(scan.files)
            if num_transient := written.num_transient:
                raise _NotCachedError
    except StorageError as error:
        note(f"{error}; images are decoded as they are needed")
        return None
    if num_transient:
        _report_not_cached(scan, num_transient, note)
    else:
        sync_later(place)
    return made


class _NotCachedError(Exception):
    """What was decoded serves this run and is then forgotten."""


def _report_not_cached(scan: DatasetScan, num_transient: int, note: Callable[[str], None]) -> None:
    note(
        f"{num_transient} images in {scan.images.source} could not be decoded for a reason that "
        "may pass: the next run decodes the set again"
    )


def _open_on_the_fly(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    place: Path,
    threads: int,
    progress: Callable[[int], None],
    note: Callable[[str], None],
) -> OnTheFlyImages:
    """Images without a pack; what a first look at all of them found is kept if it is to last."""
    path = place.with_name(place.name + entries.RESULTS_SUFFIX)
    num_decoded = 0
    if (found := read_results(path)) is not None:
        verdicts = found[0]
    else:
        verdicts = decode_and_discard(scan, preprocessing, threads=threads, progress=progress)
        num_decoded = len(scan.files)
        if verdicts.num_transient:
            _report_not_cached(scan, verdicts.num_transient, note)
        else:
            with suppress(StorageError):  # the next run looks again
                write_results(path, verdicts, {})
    return decode_on_the_fly(
        scan, preprocessing, verdicts, threads=threads, num_decoded=num_decoded
    )


def _compute_pack_key(scan: DatasetScan, preprocessing: Preprocessing) -> str:
    """The name of a set's pack: what of its files and its preprocessing decides the pixels."""
    spatial = {**preprocessing.to_json(), "mean": None, "std": None}
    version = json.dumps([_FORMAT, DECODER_VERSION, spatial], sort_keys=True)
    digest = hashlib.sha256(version.encode() + b"\n")
    for seen in scan.files:
        digest.update(f"{seen.sha256 or seen.reason}\n".encode())
    return digest.hexdigest()
