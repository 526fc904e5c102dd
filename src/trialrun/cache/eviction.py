"""Eviction from the cache: least recently used entries first."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trialrun.cache.location import cache_limit_bytes
from trialrun.files import sweep_unlocked_drafts

_FREE_SHARE = 0.9  # largest part of the disk's free space that a new entry may take


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A cached item: size in bytes, time of last use (s since 1970), and its deletion.

    `delete` may refuse to delete an entry that a process uses.
    """

    num_bytes: int
    last_used: float
    delete: Callable[[], object]


def evict_lru(
    folder: Path, entries: Iterable[CacheEntry], num_bytes: int, *, limit_bytes: int
) -> bool:
    """Delete least recently used `entries` until `num_bytes` more fit below `folder`.

    Return whether they fit. If they cannot fit, nothing is deleted, except if an entry refuses
    deletion after others were deleted.
    """
    if num_bytes > limit_bytes:
        return False
    entries = sorted(entries, key=lambda entry: entry.last_used)
    total = sum(entry.num_bytes for entry in entries)
    free = shutil.disk_usage(folder).free
    if num_bytes > (free + total) * _FREE_SHARE:
        return False
    for entry in entries:
        if total + num_bytes <= limit_bytes and num_bytes <= free * _FREE_SHARE:
            break
        entry.delete()
        total -= entry.num_bytes
        free = shutil.disk_usage(folder).free
    return num_bytes <= free * _FREE_SHARE


def enforce_limit(
    folder: Path, entries: Iterable[CacheEntry], draft_folders: Iterable[Path]
) -> None:
    """Evict `entries` until they and the drafts in `draft_folders` are within the cache's limit.

    Raises:
        InvalidParameterError: The configured limit is not a size.
    """
    limit_bytes = cache_limit_bytes()
    draft_bytes = sum(sweep_unlocked_drafts(draft_folder) for draft_folder in draft_folders)
    evict_lru(folder, entries, 0, limit_bytes=max(limit_bytes - draft_bytes, 0))
