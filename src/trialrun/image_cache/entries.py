"""The packs on disk: their sizes, when each was last used, and their deletion.

A pack is a folder named by its key, with a lock file beside it. Names that begin with a dot are
drafts. A deleted pack stays readable to the processes that have it mapped.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trialrun.cache.eviction import CacheEntry
from trialrun.files import remove_directory, sweep_unlocked_drafts
from trialrun.image_cache.decode_results import read_results
from trialrun.image_cache.store import CONTENTS

UNREADABLE = "damaged, or written by another version"  # shown in place of a pack's source
RESULTS_SUFFIX = ".verdicts.json"  # decode results of a dataset without a pack


@dataclass(frozen=True, slots=True)
class DecodedEntry:
    """One pack on disk; `used` is when it was last opened, in s since 1970."""

    key: str
    folder: Path
    num_bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class DecodedSummary:
    """One pack as `cache list` shows it."""

    key: str
    source: str
    num_images: int
    image_size: int
    num_bytes: int
    used: float


def list_entries(folder: Path) -> list[DecodedEntry]:
    """List the packs below `folder`, least recently used first."""
    entries = []
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            with suppress(OSError):  # another process is deleting it
                num_bytes = sum(file.stat().st_size for file in path.iterdir())
                used = (path / CONTENTS).stat().st_mtime
                entries.append(DecodedEntry(path.name, path, num_bytes, used))
    return sorted(entries, key=lambda entry: entry.used)


def list_summaries(folder: Path) -> list[DecodedSummary]:
    """List the packs below `folder` with their contents, least recently used first."""
    summaries = []
    for entry in list_entries(folder):
        source, num_images, size = UNREADABLE, 0, 0
        if (stored := read_results(entry.folder / CONTENTS)) is not None:
            results, metadata = stored
            source, size = str(metadata["source"]), int(metadata["size"])
            num_images = len(results.reasons)
        summaries.append(
            DecodedSummary(entry.key, source, num_images, size, entry.num_bytes, entry.used)
        )
    return summaries


def touch_entry(pack_folder: Path) -> None:
    """Record that a pack is in use now."""
    with suppress(OSError):  # a cache that cannot be written can still be read
        os.utime(pack_folder / CONTENTS)


def list_evictable(folder: Path) -> list[CacheEntry]:
    """List the packs below `folder` as entries to evict."""
    return [
        CacheEntry(entry.num_bytes, entry.used, partial(remove_directory, entry.folder))
        for entry in list_entries(folder)
    ]


@dataclass(frozen=True, slots=True)
class ClearedEntries:
    """Number of deleted packs, their size in bytes, and number of packs not permitted to delete."""

    num_packs: int
    num_bytes: int
    num_not_allowed: int


def clear_entries(folder: Path) -> ClearedEntries:
    """Delete every pack, and the drafts that no process is writing."""
    entries = list_entries(folder)
    deleted = [entry for entry in entries if remove_directory(entry.folder)]
    for path in folder.glob(f"*{RESULTS_SUFFIX}"):
        with suppress(OSError):
            path.unlink()
    sweep_unlocked_drafts(folder)
    num_bytes = sum(entry.num_bytes for entry in deleted)
    return ClearedEntries(len(deleted), num_bytes, len(entries) - len(deleted))
