"""Decoded images of a scanned dataset: read from the cache, added to it, or decoded on the fly.

The images are stored by the contents of their files and the preprocessing (see `segments`). What is
stored is therefore never stale, and the same images under other names or labels, or in another
selection, are not decoded again.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.cache.eviction import CacheEntry
from trialrun.cache.leases import lock_entry, lock_or_report
from trialrun.errors import StorageError
from trialrun.files import (
    create_directory,
    remove_directory,
    sweep_drafts,
    translate_storage_errors,
)
from trialrun.image_cache import entries
from trialrun.image_cache.decode_results import decode_and_discard, read_results, write_results
from trialrun.image_cache.entries import RESULTS_SUFFIX
from trialrun.image_cache.on_the_fly import OnTheFlyImages
from trialrun.image_cache.pack import Pack, build_pack
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.image_cache.room import Room
from trialrun.image_cache.segments.files import (
    Segment,
    hold_segment,
    is_intact,
    read_segment,
    sync_later,
)
from trialrun.image_cache.segments.keys import (
    SetKeys,
    collect_keys,
    name_variant,
    shorten_digest,
)
from trialrun.image_cache.segments.search import Placement, find_segments, place_keys
from trialrun.image_cache.segments.writer import (
    SegmentContents,
    choose_copied,
    write_segment,
)
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, ignore_progress


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
    """Return the decoded images of a scanned dataset; those not stored below `folder` are decoded.

    The least recently used idle segments and `other_entries` are evicted for new images. If these
    still exceed `limit_bytes` or the disk's free space, or the folder cannot be written, images are
    decoded on the fly. What is returned protects its segments from eviction while it exists.
    `note` is called with a message for the user.
    """
    request = _make_request(scan, preprocessing, folder, threads, progress, note)
    if (pack := _read_pack(request)) is not None:
        return pack
    waiting = f"another process is decoding {scan.images.source}; waiting for it"
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_or_report(request.lock, waiting=waiting, report=note))
        except StorageError as error:
            note(
                f"{error}: images are decoded as they are needed; set TRIALRUN_CACHE to a folder "
                "that can be written"
            )
            return _open_on_the_fly(request)
        pack = _complete_pack(request, limit_bytes, other_entries)
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
    return _open_on_the_fly(_make_request(scan, preprocessing, folder, threads, progress, note))


@dataclass(frozen=True, slots=True)
class _PackRequest:
    """What `open_pack` was called with, and the keys of the images."""

    scan: DatasetScan
    preprocessing: Preprocessing
    folder: Path
    variant: str
    keys: SetKeys
    threads: int
    progress: Callable[[int], None]
    note: Callable[[str], None]

    @property
    def image_size(self) -> int:
        """The stored size, S."""
        size = self.preprocessing.image_size
        assert size is not None, "stored images have one size"
        return size

    @property
    def lock(self) -> Path:
        """The entry whose lock is held by the one process that decodes images of this root."""
        root = shorten_digest(os.fsencode(self.scan.images.root))
        return self.folder / f"{self.variant}-{root}"

    def results_path(self) -> Path:
        """Return the file of decode results of exactly this dataset."""
        rows = "".join(f"{file.sha256 or file.reason}\n" for file in self.scan.files)
        return self.folder / f"{self.variant}-{shorten_digest(rows.encode())}{RESULTS_SUFFIX}"


def _make_request(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    folder: Path,
    threads: int,
    progress: Callable[[int], None],
    note: Callable[[str], None],
) -> _PackRequest:
    variant, keys = name_variant(preprocessing), collect_keys(scan)
    return _PackRequest(scan, preprocessing, folder, variant, keys, threads, progress, note)


def _read_pack(request: _PackRequest) -> Pack | None:
    """Return the pack if all its images are stored, else None."""
    placement = _find_stored(request)
    if len(placement.missing()):
        return None
    return _use_pack(request, placement)


def _use_pack(
    request: _PackRequest, placement: Placement, transient: Mapping[int, str] | None = None
) -> Pack:
    for segment in placement.segments:
        entries.touch_entry(segment.folder)
        sync_later(segment.folder)
    return build_pack(request.scan, request.keys, placement, request.image_size, transient)


def _find_stored(request: _PackRequest, *, removes_damaged: bool = False) -> Placement:
    """Look up the images in intact segments; `removes_damaged` requires the request's lock."""
    keys = request.keys.keys
    found = find_segments(request.folder, request.variant, keys, threads=request.threads)
    if removes_damaged and found.damaged:
        _remove_damaged(request, found.damaged)
    return place_keys(keys, found.segments)


def _remove_damaged(request: _PackRequest, damaged: Iterable[Path]) -> None:
    request.note(
        f"decoded images of {request.scan.images.source} in the cache are damaged and are decoded "
        "again"
    )
    for folder in damaged:
        remove_directory(folder)


def _complete_pack(
    request: _PackRequest,
    limit_bytes: int,
    list_other_entries: Callable[[], Sequence[CacheEntry]],
) -> Pack | None:
    """Store the images that are missing; return None, with a note, if there is no room for them."""
    placement = _find_stored(request, removes_damaged=True)
    if not len(placement.missing()):
        return _use_pack(request, placement)  # another process stored them in the meantime
    room = Room(request.folder, request.image_size, limit_bytes, list_other_entries)
    copied = choose_copied(placement.segments)
    placement, copied = _drop_damaged(request, placement, copied)
    num_missing = len(placement.missing())
    if copied and room.make(num_missing + sum(map(len, copied))):
        return _store_missing(request, placement, copied)
    if room.make(num_missing):
        return _store_missing(request, placement)
    if placement.segments and _make_room_for_all(request, placement, room):
        return _store_missing(request, place_keys(request.keys.keys, ()))
    request.note(f"{request.scan.images.source} {room.describe_lack(num_missing)}")
    return None


def _drop_damaged(
    request: _PackRequest, placement: Placement, copied: Sequence[Segment]
) -> tuple[Placement, list[Segment]]:
    """Verify all of the segments that are to be copied, and do without the damaged ones."""
    damaged = [
        segment
        for segment in copied
        if not is_intact(segment, threads=request.threads, max_bytes=segment.pixels.nbytes)
    ]
    if damaged:
        _remove_damaged(request, [segment.folder for segment in damaged])
        intact = [segment for segment in placement.segments if segment not in damaged]
        placement = place_keys(request.keys.keys, intact)
    return placement, [segment for segment in copied if segment not in damaged]


def _make_room_for_all(request: _PackRequest, placement: Placement, room: Room) -> bool:
    """Make room for all images, by evicting the segments that hold some of them among others."""
    for segment in placement.segments:
        segment.release()
    return room.make(len(request.keys.keys))


def _store_missing(
    request: _PackRequest, placement: Placement, copied: Sequence[Segment] = ()
) -> Pack | None:
    """Decode the missing images into a new segment that takes over those of `copied`.

    Return None, with a note, if the disk turned out to be too small.
    """
    missing = placement.missing()
    missing = missing[np.argsort(request.keys.first_rows[missing])]
    keys = request.keys.keys
    contents = SegmentContents(
        request.scan, request.keys.first_rows[missing], keys[missing], copied
    )
    if num_stored := len(request.scan.files) - len(missing):
        request.progress(num_stored)
    try:
        segment, reasons = _write_segment(request, contents)
    except StorageError as error:
        request.note(f"{error}; images are decoded as they are needed")
        return None
    for old in copied:
        old.release()
        entries.delete_if_idle(old.folder)
    placement = place_keys(keys, [segment, *placement.segments])
    transient = {int(missing[slot]): reason for slot, reason in reasons.items()}
    pack = _use_pack(request, placement, transient)
    pack.num_decoded = len(missing)
    if transient:
        _report_transient(request, len(transient))
    return pack


def _write_segment(
    request: _PackRequest, contents: SegmentContents
) -> tuple[Segment, dict[int, str]]:
    """Write and lease a segment; return it, and the reasons of transient failures by slot.

    It is mapped before its folder gets its name: another process may delete it from then on.

    Raises:
        StorageError: The disk is full, or the cache cannot be written.
    """
    folder = request.folder / f"{request.variant}-{contents.name()}"
    with translate_storage_errors(folder), lock_entry(folder):
        sweep_drafts(folder)
        remove_directory(folder)  # an intact one would have been found
        with suppress(_AllTransientError), create_directory(folder, durable=False) as draft:
            reasons = write_segment(
                contents,
                request.preprocessing,
                draft,
                threads=request.threads,
                progress=request.progress,
            )
            segment = _read_draft(draft)
            if len(reasons) == len(contents):
                raise _AllTransientError
            segment.folder = folder
            hold_segment(segment, folder)
    return segment, reasons


def _read_draft(draft: Path) -> Segment:
    segment = read_segment(draft)
    if segment is None:
        raise StorageError(f"{draft} does not hold what was written")
    return segment


class _AllTransientError(Exception):
    """The segment has no image to store."""


def _report_transient(request: _PackRequest, num_transient: int) -> None:
    request.note(
        f"{num_transient} images in {request.scan.images.source} could not be decoded for a "
        "reason that may pass: the next run decodes them again"
    )


def _open_on_the_fly(request: _PackRequest) -> OnTheFlyImages:
    """Return images that are not stored; their decode results are, unless any is transient."""
    scan, preprocessing, threads = request.scan, request.preprocessing, request.threads
    path = request.results_path()
    num_decoded = 0
    if (results := read_results(path)) is not None:
        entries.touch_entry(path)
    else:
        results = decode_and_discard(
            scan, preprocessing, threads=threads, progress=request.progress
        )
        num_decoded = len(scan.files)
        if results.num_transient:
            _report_transient(request, results.num_transient)
        else:
            with suppress(StorageError):  # the next run decodes the images again
                write_results(path, results)
    return OnTheFlyImages(
        scan,
        preprocessing,
        results.reasons,
        results.perceptual_hashes,
        results.aspects,
        threads,
        num_decoded,
    )
