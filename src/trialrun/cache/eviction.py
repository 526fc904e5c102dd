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
    used: float
    delete: Callable[[], object]


def evict_lru(
    folder: Path, entries: Iterable[CacheEntry], num_bytes: int, *, limit_bytes: int
) -> bool:
    """Delete least recently used `entries` until `num_bytes` more fit below `folder`.

    Returns False where they cannot fit; then nothing is deleted, unless an entry refused deletion.
    """
    if num_bytes > limit_bytes:
        return False
    entries = sorted(entries, key=lambda entry: entry.used)
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


def enforce_limit(folder: Path, entries: Iterable[CacheEntry], folders: Iterable[Path]) -> None:
    """Evict `entries` until they and the unfinished writes in `folders` are within the limit.

    Raises:
        InvalidParameterError: The configured limit is not a size.
    """
    limit_bytes = cache_limit_bytes()
    being_written = sum(sweep_unlocked_drafts(each) for each in folders)
    evict_lru(folder, entries, 0, limit_bytes=max(limit_bytes - being_written, 0))
