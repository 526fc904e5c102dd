"""The folders that archives were unpacked into: which there are, and whether anybody uses them.

A process that opens one holds a lock of its own in `<folder>.users` until it ends, so that another
one that needs room leaves the folder alone. What a process that is gone had locked can be locked.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from trialrun.files import as_json, lock_beside, remove_whole, write_atomically

_FACTS_SUFFIX, _USERS_SUFFIX = ".json", ".users"

_held: dict[Path, FileLock] = {}  # let go of when the process ends, however it does


@dataclass(frozen=True, slots=True)
class Contents:
    """What an archive brought: its name, how many files, and their bytes."""

    source: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An unpacked archive: where it lies, what it holds, when it was last opened (s since 1970)."""

    folder: Path
    contents: Contents
    used: float


@contextmanager
def alone_with(place: Path) -> Iterator[None]:
    """Be the only process that makes, opens or deletes what is at `place`.

    Raises:
        OSError: The cache cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_beside(place)):
        yield


def hold(place: Path, source: str) -> None:
    """Keep others from deleting `place` as long as this process lives; to be called alone with it.

    Raises:
        OSError: The cache cannot be written.
    """
    if place not in _held or not Path(_held[place].lock_file).exists():
        users = _beside(place, _USERS_SUFFIX)
        users.mkdir(exist_ok=True)
        with suppress(OSError):  # another user's are not ours to look at
            _is_used(place)  # which forgets those that have ended
        lock = FileLock(users / f"{os.getpid()}-{uuid.uuid4().hex}")
        lock.acquire()
        _held[place] = lock
    facts = _beside(place, _FACTS_SUFFIX)
    if facts.exists():
        os.utime(facts)
    else:
        write_atomically(facts, as_json(asdict(_counted(place, source))))


def is_whole(place: Path) -> bool:
    """Whether as many files lie unpacked as there were: what cleans up by age may take some."""
    facts = _facts(place)
    return facts is None or facts.num_files == sum(len(files) for _, _, files in os.walk(place))


def _facts(place: Path) -> Contents | None:
    try:
        return Contents(**json.loads(_beside(place, _FACTS_SUFFIX).read_text()))
    except (OSError, ValueError, TypeError):  # an older version wrote none
        return None


def unpacked_archives(folder: Path) -> list[Unpacked]:
    """What lies unpacked below `folder`, what was used longest ago first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith(".") and path.suffix != _USERS_SUFFIX:
            with suppress(OSError):  # another process deletes it meanwhile
                found.append(_described(path))
    return sorted(found, key=lambda each: each.used)


def _described(place: Path) -> Unpacked:
    if (contents := _facts(place)) is not None:
        return Unpacked(place, contents, _beside(place, _FACTS_SUFFIX).stat().st_mtime)
    return Unpacked(place, _counted(place, place.name), place.stat().st_mtime)


def _counted(place: Path, source: str) -> Contents:
    sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
    return Contents(source, len(sizes), sum(sizes))


def remove_idle(place: Path) -> bool:
    """Delete an unpacked archive; False where a process uses it, or it cannot be deleted."""
    try:
        return delete_idle(place)
    except OSError:
        return False


def delete_idle(place: Path) -> bool:
    """Delete an unpacked archive; False where a process uses it.

    Raises:
        OSError: It may not be deleted.
    """
    with alone_with(place):
        if _is_used(place):
            return False
        delete(place)
        users = _beside(place, _USERS_SUFFIX)
        shutil.rmtree(users, ignore_errors=True)
    return True


def delete(place: Path) -> None:
    """Delete what is unpacked at `place`, whoever uses it; to be called alone with it.

    Raises:
        OSError: It may not be deleted.
    """
    if not remove_whole(place):
        raise PermissionError(errno.EACCES, "it may not be deleted")
    _beside(place, _FACTS_SUFFIX).unlink(missing_ok=True)


def _is_used(place: Path) -> bool:
    """Whether a process that lives uses it; of the others no trace is left."""
    users, is_used = _beside(place, _USERS_SUFFIX), False
    for path in list(users.iterdir()) if users.is_dir() else ():
        try:
            with FileLock(path).acquire(timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            is_used = True
    return is_used


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)
