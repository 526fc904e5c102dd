"""What has to go so that a pack fits: what can be made again and was used longest ago."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_FREE_SHARE = 0.9  # of the disk's free space, at most so much for a new pack


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that can be made again: its size, its last use (s since 1970), how it goes.

    What a process uses may refuse to go; it then does not count.
    """

    num_bytes: int
    used: float
    remove: Callable[[], object]


def make_room(folder: Path, kept: Iterable[Kept], num_bytes: int, *, limit_bytes: int) -> bool:
    """Delete what is `kept`, least recently used first, until `num_bytes` more fit below `folder`.

    False where they cannot; nothing is deleted for a pack that would not fit even then.
    """
    if num_bytes > limit_bytes:
        return False
    kept = sorted(kept, key=lambda each: each.used)
    total = sum(each.num_bytes for each in kept)
    free = shutil.disk_usage(folder).free
    if num_bytes > (free + total) * _FREE_SHARE:
        return False
    for each in kept:
        if total + num_bytes <= limit_bytes and num_bytes <= free * _FREE_SHARE:
            break
        each.remove()
        total -= each.num_bytes
        free = shutil.disk_usage(folder).free
    return num_bytes <= free * _FREE_SHARE
