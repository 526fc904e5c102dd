"""Decoded images of a scanned dataset: read from the cache, added to it, or decoded on the fly.

A pack's key is a hash of its files' contents, of the preprocessing and of the decoder's version.
A pack is therefore never stale, and the same images under other names are not decoded again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
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
from trialrun.image_cache.on_the_fly import OnTheFlyImages
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.image_cache.store import Pack, estimate_pack_bytes, read_pack, sync_later, write_pack
from trialrun.images.decoding.decode import DECODER_VERSION
from trialrun.images.decoding.fitting import PAD
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, ignore_progress

_FORMAT = 7  # of a pack's files


class DecodedImages(Protocol):
    """The decoded images of a dataset, one row per image: a `Pack` or `OnTheFlyImages`."""

    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    aspects: NDArray[np.float32]
    num_decoded: int

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        ...

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the images at `rows` in that order, (N, 3, S, S) uint8."""
        ...


def _ignore_note(_text: str) -> None: ...


def _no_other_entries() -> Sequence[CacheEntry]:
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
    other_entries: Callable[[], Sequence[CacheEntry]] = _no_other_entries,
) -> DecodedImages:
    """Return the decoded images of a scanned dataset: its pack below `folder`, written if missing.

    The least recently used packs and `other_entries` are evicted for a new pack. If it still
    exceeds `limit_bytes` or the disk's free space, or the folder cannot be written, images are
    decoded on the fly. `note` is called with a message for the user.
    """
    pack_folder = folder / _compute_pack_key(scan, preprocessing)
    if (pack := read_pack(pack_folder, threads=threads)) is not None:
        entries.touch_entry(pack_folder)
        sync_later(pack_folder)
        return pack
    request = _PackRequest(scan, preprocessing, pack_folder, threads, progress, note)
    waiting = f"another process is decoding {scan.images.source}; waiting for it"
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_or_report(pack_folder, waiting=waiting, report=note))
        except StorageError as error:
            note(
                f"{error}: images are decoded as they are needed; set TRIALRUN_CACHE to a folder "
                "that can be written"
            )
            return _open_on_the_fly(request)
        if (pack := read_pack(pack_folder, threads=threads)) is not None:
            return pack  # another process wrote it in the meantime
        _remove_damaged_pack(request)
        if _has_room(request, limit_bytes, other_entries):
            pack = _write_new_pack(request)
        return pack or _open_on_the_fly(request)


def open_live(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    progress: Callable[[int], None] = ignore_progress,
    note: Callable[[str], None] = _ignore_note,
) -> OnTheFlyImages:
    """Return images that are decoded as they are needed; only decode results are cached."""
    pack_folder = folder / _compute_pack_key(scan, preprocessing)
    request = _PackRequest(scan, preprocessing, pack_folder, threads, progress, note)
    return _open_on_the_fly(request)


@dataclass(frozen=True, slots=True)
class _PackRequest:
    """What `open_pack` was called with, and the folder of the pack."""

    scan: DatasetScan
    preprocessing: Preprocessing
    pack_folder: Path
    threads: int
    progress: Callable[[int], None]
    note: Callable[[str], None]


def _remove_damaged_pack(request: _PackRequest) -> None:
    sweep_drafts(request.pack_folder)
    if request.pack_folder.exists():
        source = request.scan.images.source
        request.note(f"the cached copy of {source} is damaged and is written again")
        remove_directory(request.pack_folder)


def _has_room(
    request: _PackRequest,
    limit_bytes: int,
    list_other_entries: Callable[[], Sequence[CacheEntry]],
) -> bool:
    """Evict entries until the pack fits; returns False, with a note, if it cannot."""
    image_size, folder = request.preprocessing.image_size, request.pack_folder.parent
    assert image_size is not None, "a pack has one size"
    being_written = sweep_unlocked_drafts(folder)
    evictable = [*entries.list_evictable(folder), *list_other_entries()]
    needed = estimate_pack_bytes(len(request.scan.files), image_size)
    if evict_lru(folder, evictable, needed, limit_bytes=limit_bytes - being_written):
        return True
    others = f", {being_written / 1e9:.3g} GB being written" if being_written else ""
    request.note(
        f"{request.scan.images.source} would take {needed / 1e9:.3g} GB decoded, which does not "
        f"fit into {folder} (limit {limit_bytes / 1e9:g} GB{others}): images are decoded as they "
        "are needed"
    )
    return False


def _write_new_pack(request: _PackRequest) -> Pack | None:
    """Write a pack and return it, or None if the disk turned out to be too small.

    The pack is mapped before its folder is renamed: another process may delete it from then on.
    """
    pack, num_transient = None, 0
    scan, folder, threads = request.scan, request.pack_folder, request.threads
    try:
        with suppress(_NotCachedError), create_directory(folder, durable=False) as draft:
            results = write_pack(
                scan, request.preprocessing, draft, threads=threads, progress=request.progress
            )
            pack = read_pack(draft, threads=threads, check=False)
            if pack is None:
                raise StorageError(f"{draft} does not hold what was written")
            pack.num_decoded = len(scan.files)
            if num_transient := results.num_transient:
                raise _NotCachedError
    except StorageError as error:
        request.note(f"{error}; images are decoded as they are needed")
        return None
    if num_transient:
        _report_not_cached(request, num_transient)
    else:
        sync_later(folder)
    return pack


class _NotCachedError(Exception):
    """The pack serves this run only and is not added to the cache."""


def _report_not_cached(request: _PackRequest, num_transient: int) -> None:
    request.note(
        f"{num_transient} images in {request.scan.images.source} could not be decoded for a "
        "reason that may pass: the next run decodes the dataset again"
    )


def _open_on_the_fly(request: _PackRequest) -> OnTheFlyImages:
    """Return images without a pack; their decode results are cached unless any is transient."""
    scan, preprocessing, threads = request.scan, request.preprocessing, request.threads
    path = request.pack_folder.with_name(request.pack_folder.name + entries.RESULTS_SUFFIX)
    num_decoded = 0
    if (stored := read_results(path)) is not None:
        results = stored[0]
    else:
        results = decode_and_discard(
            scan, preprocessing, threads=threads, progress=request.progress
        )
        num_decoded = len(scan.files)
        if results.num_transient:
            _report_not_cached(request, results.num_transient)
        else:
            with suppress(StorageError):  # the next run decodes the images again
                write_results(path, results, {})
    return OnTheFlyImages(
        scan,
        preprocessing,
        results.reasons,
        results.perceptual_hashes,
        results.aspects,
        threads,
        num_decoded,
    )


def _compute_pack_key(scan: DatasetScan, preprocessing: Preprocessing) -> str:
    """Return the name of a dataset's pack: a hash of everything that decides its pixels."""
    # The mean counts only as the color of padding.
    spatial = {**preprocessing.to_json(), "mean": None, "std": None}
    if preprocessing.fit == PAD:
        spatial["fill"] = preprocessing.fill
    version = json.dumps([_FORMAT, DECODER_VERSION, spatial], sort_keys=True)
    digest = hashlib.sha256(version.encode() + b"\n")
    for file in scan.files:
        digest.update(f"{file.sha256 or file.reason}\n".encode())
    return digest.hexdigest()
