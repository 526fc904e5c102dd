"""What the cache holds that can be made again: packs, unpacked archives, ledgers."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trialrun.config.folders import cache_folder, cache_limit_bytes
from trialrun.files import sweep_idle
from trialrun.images.archives import (
    Unpacked,
    archives_folder,
    delete_idle,
    digests_folder,
    remove_idle,
    unpacked_archives,
)
from trialrun.packing.cache import Described, clear, described, evictable
from trialrun.packing.room import Kept, make_room

PACKS, LEDGERS = "packs", "ledgers"


@dataclass(frozen=True, slots=True)
class Cleared:
    """Packs and unpacked archives that were deleted, their bytes, and what stays.

    That is archives that processes use, and packs and archives that this user may not delete.
    """

    num_packs: int
    num_archives: int
    num_bytes: int
    num_in_use: int
    num_not_allowed: int


def packs_folder() -> Path:
    """Where the packs lie."""
    return cache_folder() / PACKS


def ledgers_folder() -> Path:
    """Where it is noted which files have not changed."""
    return cache_folder() / LEDGERS


def kept_packs() -> list[Described]:
    """Every pack, the one used longest ago first."""
    return described(packs_folder())


def kept_archives() -> list[Unpacked]:
    """Every unpacked archive, the one used longest ago first."""
    return unpacked_archives(archives_folder(cache_folder()))


def evictable_archives() -> list[Kept]:
    """The unpacked archives, as what may go for a pack; those that a process uses stay."""
    return [
        Kept(each.contents.num_bytes, each.used, partial(remove_idle, each.folder))
        for each in kept_archives()
    ]


def keep_within_limit() -> None:
    """Delete what was used longest ago where packs and idle archives are more than the limit.

    Raises:
        InvalidParameterError: The limit is no size.
    """
    limit_bytes = cache_limit_bytes()
    if archives := evictable_archives():
        being_written = sum(
            sweep_idle(folder) for folder in (packs_folder(), archives_folder(cache_folder()))
        )
        kept = [*evictable(packs_folder()), *archives]
        make_room(cache_folder(), kept, 0, limit_bytes=max(limit_bytes - being_written, 0))


def clear_kept() -> Cleared:
    """Delete packs, ledgers and those unpacked archives that no process uses."""
    packs = clear(packs_folder())
    archives = kept_archives()
    outcomes = [_outcome(each) for each in archives]
    removed = [each for each, gone in zip(archives, outcomes, strict=True) if gone]
    sweep_idle(archives_folder(cache_folder()))
    for folder in (ledgers_folder(), digests_folder(cache_folder())):
        shutil.rmtree(folder, ignore_errors=True)
    return Cleared(
        packs.num_packs,
        len(removed),
        packs.num_bytes + sum(each.contents.num_bytes for each in removed),
        outcomes.count(False),
        packs.num_left + outcomes.count(None),
    )


def _outcome(archive: Unpacked) -> bool | None:
    """True where an archive was deleted, False where it is in use, None where it may not be."""
    try:
        return delete_idle(archive.folder)
    except OSError:
        return None
