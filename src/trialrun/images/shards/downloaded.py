"""The downloaded shards in the cache folder: their sizes, when each was used, and deletion."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from trialrun.cache.leases import LEASES_SUFFIX, is_leased, remove_leases
from trialrun.files import lock_path, remove_directory


@dataclass(frozen=True, slots=True)
class DownloadedShard:
    """One shard on this disk; `last_used` is when it was last opened, in s since 1970."""

    folder: Path
    name: str
    num_bytes: int
    last_used: float


def list_downloaded(folder: Path) -> list[DownloadedShard]:
    """List the downloaded shards below `folder`."""
    shards = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name.startswith(".") or entry.name.endswith(LEASES_SUFFIX):
            continue
        with suppress(OSError, StopIteration):  # a lock file, or another process deletes it
            file = next(iter(entry.iterdir()))
            shards.append(
                DownloadedShard(entry, file.name, file.stat().st_size, entry.stat().st_mtime)
            )
    return shards


def delete_if_idle(entry: Path) -> bool:
    """Delete a downloaded shard unless a process uses it; return whether it is gone."""
    try:
        with FileLock(lock_path(entry)).acquire(timeout=0):
            if is_leased(entry) or not remove_directory(entry):
                return False
            remove_leases(entry)
            return True
    except (Timeout, OSError):
        return False
