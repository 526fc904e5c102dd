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
from trialrun.files import remove_whole, sweep_idle
from trialrun.image_cache.decode_results import read_verdicts
from trialrun.image_cache.store import CONTENTS

UNREADABLE = "damaged, or another version's"  # instead of a pack's source
VERDICTS_SUFFIX = ".verdicts.json"  # of what was looked at and did not fit


@dataclass(frozen=True, slots=True)
class Entry:
    """One pack: its key, where it lies, how large it is, when it was last opened (s since 1970)."""

    key: str
    folder: Path
    num_bytes: int
    used: float


@dataclass(frozen=True, slots=True)
class Described:
    """A pack as people want to know it."""

    key: str
    source: str
    num_images: int
    image_size: int
    num_bytes: int
    used: float


def entries(folder: Path) -> list[Entry]:
    """The packs below `folder`, the one used longest ago first."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            with suppress(OSError):  # another process deletes it meanwhile
                num_bytes = sum(file.stat().st_size for file in path.iterdir())
                used = (path / CONTENTS).stat().st_mtime
                found.append(Entry(path.name, path, num_bytes, used))
    return sorted(found, key=lambda entry: entry.used)


def described(folder: Path) -> list[Described]:
    """The packs below `folder` with what they hold, the one used longest ago first."""
    rows = []
    for entry in entries(folder):
        source, num_images, size = UNREADABLE, 0, 0
        if (found := read_verdicts(entry.folder / CONTENTS)) is not None:
            verdicts, facts = found
            source, size = str(facts["source"]), int(facts["size"])
            num_images = len(verdicts.reasons)
        rows.append(Described(entry.key, source, num_images, size, entry.num_bytes, entry.used))
    return rows


def touch(place: Path) -> None:
    """Note that a pack is in use now."""
    with suppress(OSError):  # a cache that cannot be written is still good to read
        os.utime(place / CONTENTS)


def evictable(folder: Path) -> list[CacheEntry]:
    """The packs below `folder`, as what may go when room is needed."""
    return [
        CacheEntry(entry.num_bytes, entry.used, partial(remove_whole, entry.folder))
        for entry in entries(folder)
    ]


@dataclass(frozen=True, slots=True)
class Cleared:
    """Packs that were deleted, their bytes, and how many may not be."""

    num_packs: int
    num_bytes: int
    num_left: int


def clear(folder: Path) -> Cleared:
    """Delete every pack, and the drafts that no process is writing."""
    packs = entries(folder)
    gone = [entry for entry in packs if remove_whole(entry.folder)]
    for path in folder.glob(f"*{VERDICTS_SUFFIX}"):
        with suppress(OSError):
            path.unlink()
    sweep_idle(folder)
    num_bytes = sum(entry.num_bytes for entry in gone)
    return Cleared(len(gone), num_bytes, len(packs) - len(gone))
