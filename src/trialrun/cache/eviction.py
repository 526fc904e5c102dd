"""Eviction from the cache: least recently used entries first."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialrun.cache.location import cache_limit_bytes
from trialrun.files import sweep_unlocked_drafts

_FREE_SHARE = 0.9  # largest part of the disk's free space that a new entry may take


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A cached item: size in bytes, time of last use (s since 1970), and its deletion.

    `delete` returns whether it deleted the entry. An entry that is in use counts towards the limit
    and is not deleted.
    """

    num_bytes: int
    last_used: float
    delete: Callable[[], bool]
    is_in_use: bool = False


def evict_lru(
    folder: Path, entries: Iterable[CacheEntry], num_bytes: int, *, limit_bytes: int
) -> bool:
    """Delete the least recently used idle `entries` until `num_bytes` more fit below `folder`.

    Return whether they fit. If they cannot fit, nothing is deleted, except if an entry refuses
    deletion after others were deleted.
    """
    entries = list(entries)
    idle_bytes = sum(entry.num_bytes for entry in entries if not entry.is_in_use)
    used_bytes = sum(entry.num_bytes for entry in entries) - idle_bytes
    free = shutil.disk_usage(folder).free
    if num_bytes > min(limit_bytes - used_bytes, (free + idle_bytes) * _FREE_SHARE):
        return False
    return _delete_idle(folder, entries, num_bytes, limit_bytes)


def _delete_idle(
    folder: Path, entries: Sequence[CacheEntry], num_bytes: int, limit_bytes: int
) -> bool:
    total = sum(entry.num_bytes for entry in entries)
    free = shutil.disk_usage(folder).free
    idle = [entry for entry in entries if not entry.is_in_use]
    for entry in sorted(idle, key=lambda entry: entry.last_used):
        if total + num_bytes <= limit_bytes and num_bytes <= free * _FREE_SHARE:
            break
        if entry.delete():
            total -= entry.num_bytes
            free = shutil.disk_usage(folder).free
    return total + num_bytes <= limit_bytes and num_bytes <= free * _FREE_SHARE


def enforce_limit(
    folder: Path, entries: Iterable[CacheEntry], draft_folders: Iterable[Path]
) -> None:
    """Evict idle `entries` until all and the drafts in `draft_folders` are within the limit.

    Entries in use may exceed the limit; then all others are deleted.

    Raises:
        InvalidParameterError: The configured limit is not a size.
    """
    limit_bytes = cache_limit_bytes()
    draft_bytes = sum(sweep_unlocked_drafts(draft_folder) for draft_folder in draft_folders)
    _delete_idle(folder, list(entries), 0, limit_bytes - draft_bytes)
