"""Archives unpacked into the cache, and downloads: their contents, listing and deletion."""

import errno
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trialrun.cache.leases import LEASES_SUFFIX, acquire_lease, is_leased, lock_entry, remove_leases
from trialrun.files import format_json, remove_directory, write_atomically

_CONTENTS_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class ArchiveContents:
    """Name of an archive, number of files unpacked from it, and their size in bytes.

    `notes` describe what was not unpacked, and how names were read. `path` is where a downloaded
    dataset is below its folder.
    """

    source: str
    num_files: int
    num_bytes: int
    notes: Sequence[str] = ()
    path: str = ""


@dataclass(frozen=True, slots=True)
class UnpackedArchive:
    """An unpacked archive: its folder, its contents, and its last use (s since 1970)."""

    folder: Path
    contents: ArchiveContents
    used: float


def mark_used(folder: Path, source: str) -> None:
    """Record a use of an unpacked archive and lease it; requires the lock of `folder`.

    Raises:
        OSError: The cache cannot be written.
    """
    acquire_lease(folder)
    path = _contents_path(folder)
    if path.exists():
        os.utime(path)
    else:
        write_atomically(path, format_json(asdict(_count_contents(folder, source))))


def write_contents(
    folder: Path, draft: Path, source: str, *, notes: Sequence[str] = (), path: str = ""
) -> None:
    """Describe what was unpacked or downloaded into `draft`, which becomes `folder`.

    Raises:
        OSError: The cache cannot be written.
    """
    contents = replace(_count_contents(draft, source), notes=notes, path=path)
    write_atomically(_contents_path(folder), format_json(asdict(contents)))


def read_notes(folder: Path) -> Sequence[str]:
    """Return the notes on an unpacked archive."""
    contents = read_contents(folder)
    return () if contents is None else contents.notes


def is_complete(folder: Path) -> bool:
    """Whether no unpacked file is missing; programs that clean up by age may delete some."""
    contents = read_contents(folder)
    return contents is None or contents.num_files == sum(
        len(files) for _, _, files in os.walk(folder)
    )


def list_unpacked_archives(folder: Path) -> list[UnpackedArchive]:
    """List the archives unpacked below `folder`, least recently used first."""
    archives = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith(".") and path.suffix != LEASES_SUFFIX:
            with suppress(OSError):  # another process deletes it at the same time
                archives.append(_describe(path))
    return sorted(archives, key=lambda archive: archive.used)


def is_archive_in_use(folder: Path) -> bool:
    """Whether a process uses an unpacked archive."""
    try:
        return is_leased(folder)
    except OSError:  # of another user
        return True


def delete_if_idle(folder: Path) -> bool:
    """Delete an unpacked archive unless a process uses it; return whether it was deleted.

    Raises:
        OSError: Deletion is not permitted.
    """
    with lock_entry(folder):
        if is_leased(folder):
            return False
        delete_unpacked(folder)
        remove_leases(folder)
    return True


def try_delete_if_idle(folder: Path) -> bool:
    """Delete an unpacked archive if it is idle and deletable; return whether it was deleted."""
    try:
        return delete_if_idle(folder)
    except OSError:
        return False


def delete_unpacked(folder: Path) -> None:
    """Delete an unpacked archive even if it is in use; requires the lock of `folder`.

    Raises:
        OSError: Deletion is not permitted.
    """
    if not remove_directory(folder):
        raise PermissionError(errno.EACCES, "deletion is not permitted")
    _contents_path(folder).unlink(missing_ok=True)


def _describe(folder: Path) -> UnpackedArchive:
    if (contents := read_contents(folder)) is not None:
        return UnpackedArchive(folder, contents, _contents_path(folder).stat().st_mtime)
    return UnpackedArchive(folder, _count_contents(folder, folder.name), folder.stat().st_mtime)


def read_contents(folder: Path) -> ArchiveContents | None:
    """Return the description of an unpacked archive or a download; None if there is none."""
    try:
        return ArchiveContents(**json.loads(_contents_path(folder).read_text()))
    except (OSError, ValueError, TypeError):  # older versions wrote none
        return None


def _count_contents(folder: Path, source: str) -> ArchiveContents:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return ArchiveContents(source, len(sizes), sum(sizes))


def _contents_path(folder: Path) -> Path:
    return folder.with_name(folder.name + _CONTENTS_SUFFIX)
