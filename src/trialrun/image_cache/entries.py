"""The segments on disk: their sizes, when each was last used, and their deletion.

A segment is a folder with a lock file and leases beside it. Names that begin with a dot are drafts.
A deleted segment stays readable to the processes that have it mapped.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trialrun.cache.eviction import CacheEntry
from trialrun.cache.leases import LEASES_SUFFIX, is_leased, lock_entry, remove_leases, sweep_leases
from trialrun.files import remove_directory, sweep_unlocked_drafts, touch_file
from trialrun.image_cache.checked_json import read_checked_json
from trialrun.image_cache.segments.files import DESCRIPTION

UNREADABLE = "damaged, or written by another version"  # shown in place of a segment's source


@dataclass(frozen=True, slots=True)
class DecodedEntry:
    """One segment on disk; `used` is when it was last opened, in s since 1970.

    `used` is 0 for a folder of another version.
    """

    key: str
    folder: Path
    num_bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class DecodedSummary:
    """One segment as `cache list` shows it; `source` is the dataset that it was written for."""

    key: str
    source: str
    num_images: int
    image_size: int
    num_bytes: int
    used: float


def list_entries(folder: Path) -> list[DecodedEntry]:
    """List the segments below `folder`, least recently used first."""
    entries = []
    if folder.is_dir():
        for path in folder.iterdir():
            is_hidden = path.name.startswith(".") or path.suffix == LEASES_SUFFIX
            if is_hidden or not path.is_dir():
                continue
            with suppress(OSError):  # another process is deleting it
                num_bytes = sum(file.stat().st_size for file in path.iterdir())
                entries.append(DecodedEntry(path.name, path, num_bytes, _read_last_use(path)))
    return sorted(entries, key=lambda entry: entry.used)


def _read_last_use(segment: Path) -> float:
    description = segment / DESCRIPTION
    return description.stat().st_mtime if description.exists() else 0.0


def list_summaries(folder: Path) -> list[DecodedSummary]:
    """List the segments below `folder` with their contents, least recently used first."""
    summaries = []
    for entry in list_entries(folder):
        source, num_images, size = UNREADABLE, 0, 0
        values = read_checked_json(entry.folder / DESCRIPTION)
        with suppress(KeyError, TypeError, ValueError):
            if values is not None:
                num_images, size = int(values["num_images"]), int(values["size"])
                source = str(values["source"])
        summaries.append(
            DecodedSummary(entry.key, source, num_images, size, entry.num_bytes, entry.used)
        )
    return summaries


def touch_entry(segment: Path) -> None:
    """Record that a segment is in use now."""
    touch_file(segment / DESCRIPTION)


def list_evictable(folder: Path) -> list[CacheEntry]:
    """List the segments below `folder` as entries to evict."""
    return [
        CacheEntry(
            entry.num_bytes, entry.used, partial(delete_if_idle, entry.folder), _is_used(entry)
        )
        for entry in list_entries(folder)
    ]


def _is_never_in_use(_path: Path) -> bool:
    return False


def list_evictable_files(
    folder: Path, pattern: str, is_in_use: Callable[[Path], bool] = _is_never_in_use
) -> list[CacheEntry]:
    """List the files in `folder` with names that match `pattern` as entries to evict."""
    entries = []
    for path in folder.glob(pattern):
        with suppress(OSError):  # another process deletes it at the same time
            status = path.stat()
            delete = partial(_try_unlink, path)
            entries.append(CacheEntry(status.st_size, status.st_mtime, delete, is_in_use(path)))
    return entries


def _try_unlink(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _is_used(entry: DecodedEntry) -> bool:
    try:
        with lock_entry(entry.folder):
            return is_leased(entry.folder)
    except OSError:  # of another user
        return True


def delete_if_idle(segment: Path) -> bool:
    """Delete a segment unless a process uses it; return whether it was deleted."""
    try:
        with lock_entry(segment):
            if is_leased(segment) or not remove_directory(segment):
                return False
            remove_leases(segment)
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ClearedEntries:
    """Number of deleted segments, their bytes, and number of those not permitted to delete."""

    num_packs: int
    num_bytes: int
    num_not_allowed: int


def clear_entries(folder: Path) -> ClearedEntries:
    """Delete every segment, and the drafts that no process is writing.

    Segments in use are deleted, too: they stay readable to the processes that use them.
    """
    entries = list_entries(folder)
    deleted = [entry for entry in entries if remove_directory(entry.folder)]
    sweep_unlocked_drafts(folder)
    sweep_leases(folder)
    num_bytes = sum(entry.num_bytes for entry in deleted)
    return ClearedEntries(len(deleted), num_bytes, len(entries) - len(deleted))
