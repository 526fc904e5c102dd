"""The folders that archives were unpacked into: which there are, and whether anybody uses them.

A process that opens one holds a lock of its own in `<folder>.users` until it ends, so that another
one that needs room leaves the folder alone. What a process that is gone had locked can be locked.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from trialrun.files import as_json, write_atomically

_LOCK_SUFFIX, _FACTS_SUFFIX, _USERS_SUFFIX = ".lock", ".json", ".users"

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
    with FileLock(_beside(place, _LOCK_SUFFIX)):
        yield


def hold(place: Path, source: str) -> None:
    """Keep others from deleting `place` as long as this process lives; to be called alone with it.

    Raises:
        OSError: The cache cannot be written.
    """
    if place not in _held or not Path(_held[place].lock_file).exists():
        users = _beside(place, _USERS_SUFFIX)
        users.mkdir(exist_ok=True)
        lock = FileLock(users / f"{os.getpid()}-{uuid.uuid4().hex}")
        lock.acquire()
        _held[place] = lock
    facts = _beside(place, _FACTS_SUFFIX)
    if facts.exists():
        os.utime(facts)
    else:
        write_atomically(facts, as_json(asdict(_counted(place, source))))


def unpacked_archives(folder: Path) -> list[Unpacked]:
    """What lies unpacked below `folder`, what was used longest ago first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith(".") and path.suffix != _USERS_SUFFIX:
            with suppress(OSError):  # another process deletes it meanwhile
                found.append(_described(path))
    return sorted(found, key=lambda each: each.used)


def _described(place: Path) -> Unpacked:
    facts = _beside(place, _FACTS_SUFFIX)
    try:
        contents = Contents(**json.loads(facts.read_text()))
        return Unpacked(place, contents, facts.stat().st_mtime)
    except (OSError, ValueError, TypeError):  # an older version wrote none
        return Unpacked(place, _counted(place, place.name), place.stat().st_mtime)


def _counted(place: Path, source: str) -> Contents:
    sizes = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
    return Contents(source, len(sizes), sum(sizes))


def remove_idle(place: Path) -> bool:
    """Delete an unpacked archive; False where a process uses it, or it cannot be deleted."""
    try:
        with alone_with(place):
            if _is_used(place):
                return False
            trash = place.with_name(f".{place.name}.trash-{uuid.uuid4().hex}")
            place.rename(trash)
            for suffix in (_FACTS_SUFFIX, _USERS_SUFFIX):
                _remove(_beside(place, suffix))
    except OSError:
        return False
    _remove(trash)
    return True


def _is_used(place: Path) -> bool:
    users = _beside(place, _USERS_SUFFIX)
    for path in list(users.iterdir()) if users.is_dir() else ():
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
    return False


def sweep_drafts(place: Path) -> None:
    """Delete what a killed process left; to be called alone with `place`."""
    for draft in place.parent.glob(f".{place.name}.*"):
        shutil.rmtree(draft, ignore_errors=True)


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
