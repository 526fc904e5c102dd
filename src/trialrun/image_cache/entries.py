"""The folder of packs: how much lies there, what was used last, and how it goes.

A pack is a folder named by its key, with a lock file beside it; names that begin with a dot are
drafts. A pack that is deleted while a process has it mapped stays readable to that process.
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

UNREADABLE = "damaged, or another version's"  # instead of a pack's source
RESULTS_SUFFIX = ".verdicts.json"  # of what was looked at and did not fit


@dataclass(frozen=True, slots=True)
class DecodedEntry:
    """One pack: its key, where it lies, how large it is, when it was last opened (s since 1970)."""

    key: str
    folder: Path
    num_bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class DecodedSummary:
    """A pack as people want to know it."""

    key: str
    source: str
    num_images: int
    image_size: int
    num_bytes: int
    used: float


def list_entries(folder: Path) -> list[DecodedEntry]:
    """The packs below `folder`, the one used longest ago first."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            with suppress(OSError):  # another process deletes it meanwhile
                num_bytes = sum(file.stat().st_size for file in path.iterdir())
                used = (path / CONTENTS).stat().st_mtime
                found.append(DecodedEntry(path.name, path, num_bytes, used))
    return sorted(found, key=lambda entry: entry.used)


def list_summaries(folder: Path) -> list[DecodedSummary]:
    """The packs below `folder` with what they hold, the one used longest ago first."""
    rows = []
    for entry in list_entries(folder):
        source, num_images, size = UNREADABLE, 0, 0
        if (found := read_results(entry.folder / CONTENTS)) is not None:
            verdicts, facts = found
            source, size = str(facts["source"]), int(facts["size"])
            num_images = len(verdicts.reasons)
        rows.append(
            DecodedSummary(entry.key, source, num_images, size, entry.num_bytes, entry.used)
        )
    return rows


def touch_entry(place: Path) -> None:
    """Note that a pack is in use now."""
    with suppress(OSError):  # a cache that cannot be written is still good to read
        os.utime(place / CONTENTS)


def list_evictable(folder: Path) -> list[CacheEntry]:
    """The packs below `folder`, as what may go when room is needed."""
    return [
        CacheEntry(entry.num_bytes, entry.used, partial(remove_directory, entry.folder))
        for entry in list_entries(folder)
    ]


@dataclass(frozen=True, slots=True)
class ClearedEntries:
    """Packs that were deleted, their bytes, and how many may not be."""

    num_packs: int
    num_bytes: int
    num_left: int


def clear_entries(folder: Path) -> ClearedEntries:
    """Delete every pack, and the drafts that no process is writing."""
    packs = list_entries(folder)
    gone = [entry for entry in packs if remove_directory(entry.folder)]
    for path in folder.glob(f"*{RESULTS_SUFFIX}"):
        with suppress(OSError):
            path.unlink()
    sweep_unlocked_drafts(folder)
    num_bytes = sum(entry.num_bytes for entry in gone)
    return ClearedEntries(len(gone), num_bytes, len(packs) - len(gone))
