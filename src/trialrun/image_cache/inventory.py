"""Contents of the whole cache: decoded images, features, unpacked archives and file scans."""

import shutil
from dataclasses import dataclass
from functools import partial

from trialrun.cache.eviction import CacheEntry, enforce_limit
from trialrun.cache.leases import sweep_leases, sweep_locks
from trialrun.cache.location import (
    archives_folder,
    cache_folder,
    decoded_folder,
    digests_folder,
    downloads_folder,
    features_folder,
    scans_folder,
    shards_folder,
)
from trialrun.files import sweep_unlocked_drafts
from trialrun.image_cache.entries import (
    DecodedSummary,
    clear_entries,
    list_evictable,
    list_evictable_files,
    list_summaries,
)
from trialrun.image_cache.feature_tables import list_feature_files
from trialrun.image_cache.scan_cache import drop_stale_scans, is_scan_in_use
from trialrun.images.formats.archives import (
    ArchiveContents,
    UnpackedArchive,
    delete_if_idle,
    drop_stale_digests,
    is_archive_in_use,
    list_unpacked_archives,
    try_delete_if_idle,
)
from trialrun.images.shards.downloaded import list_downloaded


@dataclass(frozen=True, slots=True)
class ClearedCache:
    """Numbers of deleted entries, their size in bytes, and numbers of those that remain.

    Archives in use remain, and entries that this user is not permitted to delete.
    """

    num_packs: int
    num_archives: int
    num_bytes: int
    num_in_use: int
    num_not_allowed: int
    num_features: int = 0  # files of features


def list_decoded() -> list[DecodedSummary]:
    """List the decoded datasets, least recently used first."""
    return list_summaries(decoded_folder())


def list_archives() -> list[UnpackedArchive]:
    """List unpacked archives, downloaded datasets and shards, least recently used first."""
    return sorted([*_list_unpacked(), *_list_shards()], key=lambda archive: archive.used)


def _list_unpacked() -> list[UnpackedArchive]:
    cache = cache_folder()
    return [
        *list_unpacked_archives(archives_folder(cache)),
        *list_unpacked_archives(downloads_folder(cache)),
    ]


def _list_shards() -> list[UnpackedArchive]:
    return [
        UnpackedArchive(
            shard.folder, ArchiveContents(shard.name, 1, shard.num_bytes), shard.last_used
        )
        for shard in list_downloaded(shards_folder(cache_folder()))
    ]


def list_evictable_archives(*, has_shards: bool = True) -> list[CacheEntry]:
    """List unpacked archives, downloads, file scans and features to evict.

    `has_shards` lists downloaded shards too.
    """
    archives = list_archives() if has_shards else _list_unpacked()
    files = list_evictable_files(scans_folder(), "[!.]*", is_scan_in_use) + list_feature_files()
    return files + [
        CacheEntry(
            archive.contents.num_bytes,
            archive.used,
            partial(try_delete_if_idle, archive.folder),
            is_archive_in_use(archive.folder),
        )
        for archive in archives
    ]


def list_evictable_entries() -> list[CacheEntry]:
    """List everything in the cache that can be evicted."""
    return [*list_evictable(decoded_folder()), *list_evictable_archives()]


def enforce_cache_limit() -> None:
    """Evict idle images, archives and downloads until the cache is within its size limit.

    What belongs to vanished paths is deleted at any size.

    Raises:
        InvalidParameterError: The configured limit is not a size.
    """
    cache = cache_folder()
    folders = (
        decoded_folder(),
        archives_folder(cache),
        downloads_folder(cache),
        shards_folder(cache),
        features_folder(cache),
    )
    if evictable := list_evictable_entries():
        enforce_limit(cache, evictable, folders)
    drop_stale_scans(scans_folder())
    drop_stale_digests(digests_folder(cache))
    for folder in folders:
        sweep_leases(folder)
        sweep_locks(folder)


def clear_cache() -> ClearedCache:
    """Delete decoded images, features, file scans, and idle unpacked archives and downloads."""
    features = [entry for entry in list_feature_files() if entry.delete()]
    decoded = clear_entries(decoded_folder())
    archives = list_archives()
    outcomes = [_delete_archive(archive) for archive in archives]
    deleted = [
        archive for archive, is_deleted in zip(archives, outcomes, strict=True) if is_deleted
    ]
    cache = cache_folder()
    for folder in (
        archives_folder(cache),
        downloads_folder(cache),
        shards_folder(cache),
        features_folder(cache),
    ):
        sweep_unlocked_drafts(folder)
    for folder in (scans_folder(), digests_folder(cache)):
        shutil.rmtree(folder, ignore_errors=True)
    return ClearedCache(
        decoded.num_packs,
        len(deleted),
        decoded.num_bytes
        + sum(archive.contents.num_bytes for archive in deleted)
        + sum(entry.num_bytes for entry in features),
        outcomes.count(False),
        decoded.num_not_allowed + outcomes.count(None),
        len(features),
    )


def _delete_archive(archive: UnpackedArchive) -> bool | None:
    """Return True if deleted, False if the archive is in use, None if deletion is not permitted."""
    try:
        return delete_if_idle(archive.folder)
    except OSError:
        return None
