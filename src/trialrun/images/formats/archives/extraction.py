"""Finding of archives and their unpacking into the cache, atomically and by one process."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from trialrun.cache.leases import lock_entry
from trialrun.cache.location import archives_folder, digests_folder
from trialrun.config import AUTO_TEXT
from trialrun.errors import InvalidArchiveError
from trialrun.files import (
    clear_directory,
    create_directory,
    sweep_drafts,
    translate_storage_errors,
)
from trialrun.images.formats import UNPACK_VERSION, is_list_name
from trialrun.images.formats.archives.digests import find_digest
from trialrun.images.formats.archives.encodings import check_encoding
from trialrun.images.formats.archives.entries import UnpackLimits, extract_members
from trialrun.images.formats.archives.store import (
    delete_unpacked,
    is_complete,
    mark_used,
    write_contents,
)
from trialrun.images.formats.archives.tar_files import (
    IndexNeededError,
    read_tar_index,
    read_tar_members,
)
from trialrun.images.formats.archives.zip_files import read_zip_members
from trialrun.images.scanning.walk import is_image_name, is_system_name

_ZIP_SUFFIXES = (".zip",)
_TAR_SUFFIXES = tuple(".tar .tar.gz .tgz .tar.bz2 .tbz2 .tbz .tar.xz .txz .tar.zst .tzst".split())
# Kinds of archives that are refused, and how their files begin.
_REFUSED = {".7z": b"7z\xbc\xaf\x27\x1c", ".rar": b"Rar!\x1a\x07"}

_ZIP_START = b"PK\x03\x04"
_EMPTY_ZIP_START = b"PK\x05\x06"
_TAR_MAGIC, _TAR_MAGIC_OFFSET = b"ustar", 257
_FREE_SHARE = 0.9  # largest part of the disk's free space that an archive may take


def find_archive(path: Path) -> Path | None:
    """Return `path` if it is an archive, or the archive that is alone in the folder `path`.

    Raises:
        OSError: The folder cannot be listed.
    """
    if path.is_file():
        return path if _is_archive(path) else None
    if not path.is_dir():
        return None  # a pipe or a device
    entries = [entry for entry in path.iterdir() if not is_system_name(entry.name)]
    if len(entries) == 1 and entries[0].is_file() and _has_archive_name(entries[0]):
        return entries[0]
    return None


def _has_archive_name(path: Path) -> bool:
    return path.name.lower().endswith((*_ZIP_SUFFIXES, *_TAR_SUFFIXES, *_REFUSED))


def _is_archive(path: Path) -> bool:
    if _has_archive_name(path):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    is_tar = start[_TAR_MAGIC_OFFSET:].startswith(_TAR_MAGIC)
    return is_tar or start.startswith((_ZIP_START, *_REFUSED.values()))


def unpack_archive(
    archive: Path,
    cache_folder: Path,
    encoding: str = AUTO_TEXT,
) -> Path:
    """Return the folder with the archive's images, unpacking them on first use.

    `encoding` is that of names without a declared one. `read_notes` returns what was left out or
    read in an unusual way.

    Raises:
        InvalidArchiveError: Not an archive, damaged, encrypted, or with an entry that is not
            allowed.
        InvalidParameterError: There is no such encoding.
        StorageError: The cache folder cannot be written.
    """
    _refuse_unsupported(archive)
    suffix = "" if encoding == AUTO_TEXT else f"-{check_encoding(encoding)}"
    try:
        digest = find_digest(archive, digests_folder(cache_folder))
    except OSError as error:
        raise InvalidArchiveError(
            f"{archive} cannot be read: {error.strerror or error}", "Check its permissions."
        ) from error
    folder = archives_folder(cache_folder) / f"{digest[:40]}-{UNPACK_VERSION}{suffix}"
    # An entry of a read-only cache needs no lock and no lease, as it cannot be deleted.
    if not (folder.is_dir() and not os.access(folder.parent, os.W_OK)):
        _ensure_unpacked(archive, folder, encoding)
    return _skip_wrapper_folders(folder)


def _refuse_unsupported(archive: Path) -> None:
    """Raise for archives of kinds that are not read, by suffix or content.

    Raises:
        InvalidArchiveError: It is such an archive.
    """
    start = b""
    with suppress(OSError), archive.open("rb") as file:
        start = file.read(8)
    for suffix, magic in _REFUSED.items():
        if start.startswith(magic) or archive.name.lower().endswith(suffix):
            raise InvalidArchiveError(
                f"{archive}: {suffix} archives are not read",
                "Unpack it and give the folder, or pack the folder as .zip, .tar or .tar.zst.",
            )


def _ensure_unpacked(archive: Path, folder: Path, encoding: str) -> None:
    """Unpack an archive unless it is unpacked, and lease it while this process lives."""
    with translate_storage_errors(folder), lock_entry(folder):
        sweep_drafts(folder)
        if folder.is_dir() and not is_complete(folder):
            delete_unpacked(folder)
        if not folder.is_dir():
            with create_directory(folder) as draft:
                notes = _unpack_members(archive, draft, encoding)
                write_contents(folder, draft, str(archive), notes=notes)
        mark_used(folder, str(archive))


def _unpack_members(archive: Path, draft: Path, encoding: str) -> tuple[str, ...]:
    """Unpack into an empty folder; return notes on names and on what was left out."""
    free_bytes = int(shutil.disk_usage(draft).free * _FREE_SHARE)

    def start_limits() -> UnpackLimits:
        return UnpackLimits(archive, archive.stat().st_size, free_bytes)

    limits = start_limits()
    with limits.translate_errors(), archive.open("rb") as file:
        is_zip = file.read(4) in (_ZIP_START, _EMPTY_ZIP_START)
    if is_zip or archive.name.lower().endswith(_ZIP_SUFFIXES):
        extract_members(read_zip_members(archive, limits, encoding=encoding), draft, limits)
        return limits.notes()
    try:
        extract_members(read_tar_members(archive, limits, encoding=encoding), draft, limits)
        return limits.notes()
    except IndexNeededError:
        clear_directory(draft)
    index, limits = read_tar_index(archive, start_limits(), encoding=encoding), start_limits()
    members = read_tar_members(archive, limits, encoding=encoding, index=index)
    extract_members(members, draft, limits)
    return (*index.notes, *limits.notes())


def _skip_wrapper_folders(folder: Path) -> Path:
    """Descend into single sub-folders as long as they contain class folders or an image list."""
    while (inner := _find_only_folder(folder)) is not None:
        entries = _list_entries(inner)
        has_list = any(is_list_name(name) for name, _ in entries)
        has_folder = any(is_folder for _, is_folder in entries)
        has_image = any(is_image_name(name) for name, _ in entries)
        if not has_list and (has_image or not has_folder):
            return folder  # `inner` is a class and not a wrapper
        folder = inner
    return folder


def _find_only_folder(folder: Path) -> Path | None:
    entries = _list_entries(folder)
    return folder / entries[0][0] if len(entries) == 1 and entries[0][1] else None


def _list_entries(folder: Path) -> list[tuple[str, bool]]:
    """List the names in a folder, and whether each is a folder."""
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir()) for entry in entries]
