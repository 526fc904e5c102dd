"""Decoded images of a scanned dataset: read from the cache, added to it, or decoded on the fly.

The images are stored by the contents of their files and the preprocessing (see `segments`). What is
stored is therefore never stale, and the same images under other names or labels, or in another
selection, are not decoded again.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

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
from trialrun.image_cache.on_the_fly import (
    KnownSegments,
    NewResults,
    OnTheFlyImages,
    open_unstored,
)
from trialrun.image_cache.pack import DecodedImages, Pack, build_pack
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
from trialrun.image_cache.segments.search import (
    Placement,
    find_segments,
    order_missing,
    place_keys,
)
from trialrun.image_cache.segments.writer import (
    SegmentContents,
    choose_copied,
    write_results,
    write_segment,
)
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, ignore_progress


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
    room = Room(folder, _stored_size(preprocessing), limit_bytes, other_entries)
    request = _make_request(scan, preprocessing, room, threads, progress, note)
    pack, damaged = _read_pack(request)
    if pack is not None:
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
        pack = _complete_pack(request, suspects=damaged)
        return pack or _open_on_the_fly(request)


def open_live(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    limit_bytes: int,
    progress: Callable[[int], None] = ignore_progress,
    note: Callable[[str], None] = _ignore_note,
    other_entries: Callable[[], Sequence[CacheEntry]] = _no_other_entries,
) -> OnTheFlyImages:
    """As `open_pack`, but store no pixels: images that are not stored are decoded on the fly."""
    room = Room(folder, _stored_size(preprocessing), limit_bytes, other_entries)
    return _open_on_the_fly(_make_request(scan, preprocessing, room, threads, progress, note))


def _stored_size(preprocessing: Preprocessing) -> int:
    assert preprocessing.image_size is not None, "stored images have one size"
    return preprocessing.image_size


@dataclass(frozen=True, slots=True)
class _PackRequest:
    """What `open_pack` was called with, and the keys of the images."""

    scan: DatasetScan
    preprocessing: Preprocessing
    room: Room
    variant: str
    keys: SetKeys
    threads: int
    progress: Callable[[int], None]
    note: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """The folder of all segments."""
        return self.room.folder

    @property
    def lock(self) -> Path:
        """The entry that the one process which decodes images of this root has locked."""
        root = shorten_digest(os.fsencode(self.scan.images.root))
        return self.folder / f"{self.variant}-{root}"


def _make_request(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    room: Room,
    threads: int,
    progress: Callable[[int], None],
    note: Callable[[str], None],
) -> _PackRequest:
    variant, keys = name_variant(preprocessing), collect_keys(scan)
    return _PackRequest(scan, preprocessing, room, variant, keys, threads, progress, note)


def _find_stored(
    request: _PackRequest, suspects: Collection[Path] = ()
) -> tuple[Placement, Collection[Path]]:
    """Look up the images in intact segments; return the folders of damaged ones, too."""
    keys = request.keys.keys
    found = find_segments(
        request.folder, request.variant, keys, threads=request.threads, suspects=suspects
    )
    return place_keys(keys, found.segments), found.damaged


def _read_pack(request: _PackRequest) -> tuple[Pack | None, Collection[Path]]:
    """Return the pack if all its images are stored, and the folders of damaged segments."""
    placement, damaged = _find_stored(request)
    return None if len(placement.missing()) else _use_pack(request, placement), damaged


def _use_pack(
    request: _PackRequest, placement: Placement, transient: Mapping[int, str] | None = None
) -> Pack:
    for segment in placement.segments:
        entries.touch_entry(segment.folder)
        sync_later(segment.folder)
    return build_pack(request.scan, request.keys, placement, request.room.image_size, transient)


def _remove_damaged(request: _PackRequest, damaged: Iterable[Path]) -> None:
    request.note(
        f"decoded images of {request.scan.images.source} in the cache are damaged and are decoded "
        "again"
    )
    for folder in damaged:
        remove_directory(folder)


def _complete_pack(request: _PackRequest, *, suspects: Collection[Path]) -> Pack | None:
    """Store the images that are missing; return None, with a note, if they do not fit."""
    placement, damaged = _find_stored(request, suspects)
    if damaged:
        _remove_damaged(request, damaged)
    if not len(placement.missing()):
        return _use_pack(request, placement)  # another process stored them in the meantime
    room = request.room
    copied = choose_copied(placement.segments)
    placement, copied = _drop_damaged(request, placement, copied)
    num_missing = len(placement.missing())
    if copied and room.make(num_missing + sum(map(len, copied))):
        return _store_missing(request, placement, copied)
    if room.make(num_missing):
        return _store_missing(request, placement)
    if placement.segments and _make_room_for_all(request, placement):
        return _store_missing(request, place_keys(request.keys.keys, ()))
    request.note(f"{request.scan.images.source} {room.describe_lack(num_missing)}")
    return None


def _drop_damaged(
    request: _PackRequest, placement: Placement, copied: Sequence[Segment]
) -> tuple[Placement, list[Segment]]:
    """Verify all of the segments that are to be copied, and do without the damaged ones."""
    damaged = [segment for segment in copied if not is_intact(segment, threads=request.threads)]
    if damaged:
        _remove_damaged(request, [segment.folder for segment in damaged])
        intact = [segment for segment in placement.segments if segment not in damaged]
        placement = place_keys(request.keys.keys, intact)
    return placement, [segment for segment in copied if segment not in damaged]


def _make_room_for_all(request: _PackRequest, placement: Placement) -> bool:
    """Make room for all images, by evicting the segments that hold some of them among others."""
    for segment in placement.segments:
        segment.release()
    return request.room.make(len(request.keys.keys))


def _store_missing(
    request: _PackRequest, placement: Placement, copied: Sequence[Segment] = ()
) -> Pack | None:
    """Decode the missing images into a new segment that takes over those of `copied`.

    Return None, with a note, if the disk turned out to be too small.
    """
    missing = order_missing(request.keys, placement)
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
    """Return images that are not all stored; the results of decoding them are."""
    stored, _ = _find_stored(request)
    missing = request.keys.keys[stored.missing()]
    variant = name_variant(request.preprocessing, has_pixels=False)
    results = find_segments(request.folder, variant, missing, threads=request.threads)
    for folder in results.damaged:
        remove_directory(folder)
    for segment in (*stored.segments, *results.segments):
        entries.touch_entry(segment.folder)
    images, new = open_unstored(
        request.scan,
        request.preprocessing,
        request.keys,
        KnownSegments(stored.segments, results.segments),
        threads=request.threads,
        progress=request.progress,
    )
    if new.table.transient:
        _report_transient(request, len(new.table.transient))
    if len(new.table.transient) < len(new.contents):
        with suppress(StorageError):  # the next run decodes the images again
            _store_results(new, variant, replace(request.room, image_size=0))
    return images


def _store_results(new: NewResults, variant: str, room: Room) -> None:
    """Write a segment of results if there is room, and delete those that it takes over.

    Raises:
        StorageError: The disk is full, or the cache cannot be written.
    """
    folder = room.folder / f"{variant}-{new.contents.name()}"
    with translate_storage_errors(folder):
        room.folder.mkdir(parents=True, exist_ok=True)
        if not room.make(len(new.contents)):
            return
    with translate_storage_errors(folder), lock_entry(folder):
        sweep_drafts(folder)
        remove_directory(folder)
        with create_directory(folder, durable=False) as draft:
            write_results(new.table, draft, new.contents.scan.images.source)
    for old in new.contents.copied:
        old.release()
        entries.delete_if_idle(old.folder)
