"""Where an archive lies, and where it is unpacked to: whole or not at all, by one process."""

import json
import os
import shutil
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from trialrun.cache.leases import lock_entry
from trialrun.cache.location import archives_folder, digests_folder
from trialrun.errors import InvalidArchiveError, StorageError
from trialrun.files import (
    create_directory,
    format_json,
    hash_file,
    sweep_drafts,
    translate_storage_errors,
    write_atomically,
)
from trialrun.images.decoding.file_io import read_stable_fingerprint
from trialrun.images.formats.archives.entries import UnpackLimits, extract_members, is_list_name
from trialrun.images.formats.archives.store import delete_unpacked, is_complete, mark_used
from trialrun.images.formats.archives.tar_files import read_tar_members
from trialrun.images.formats.archives.zip_files import read_zip_members
from trialrun.images.scanning.walk import is_image_name, is_system_name

_ZIP_SUFFIXES = (".zip",)
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz")

_FORMAT = 1  # raised when other files would be unpacked
_ZIP_START = b"PK\x03\x04"
_EMPTY_ZIP_START = b"PK\x05\x06"
_TAR_MAGIC, _TAR_MAGIC_PLACE = b"ustar", 257
_RESERVED_SHARE = 0.9  # of the free space


def find_archive(path: Path) -> Path | None:
    """The archive at `path`, or the one that lies alone in the folder `path`; None for others.

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
    return path.name.lower().endswith(_ZIP_SUFFIXES + _TAR_SUFFIXES)


def _is_archive(path: Path) -> bool:
    if _has_archive_name(path):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return start.startswith(_ZIP_START) or start[_TAR_MAGIC_PLACE:].startswith(_TAR_MAGIC)


def unpack_archive(archive: Path, cache_folder: Path) -> Path:
    """The folder with the archive's images, unpacked on first use.

    Raises:
        InvalidArchiveError: Damaged, encrypted, no archive, or meaning harm.
        StorageError: The cache folder cannot be written.
    """
    try:
        digest = _find_digest(archive, cache_folder)
    except OSError as error:
        raise InvalidArchiveError(
            f"{archive} cannot be read: {error.strerror or error}", "Look at its permissions."
        ) from error
    place = archives_folder(cache_folder) / f"{digest[:40]}-{_FORMAT}"
    if not (place.is_dir() and not os.access(place.parent, os.W_OK)):  # else nobody can delete it
        _ensure_unpacked(archive, place)
    return _skip_wrapper_folders(place)


def _find_digest(archive: Path, cache_folder: Path) -> str:
    """The sha256 of an archive's bytes, which are not read again while its stamp is the same.

    Raises:
        OSError: It cannot be read.
    """
    path = archive.resolve()
    known = digests_folder(cache_folder) / f"{sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    stamp = read_stable_fingerprint(path)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        stored = json.loads(known.read_text("utf-8"))
        if stamp is not None and stored == {"stamp": list(stamp), "sha256": stored["sha256"]}:
            return str(stored["sha256"])
    digest = hash_file(archive)
    if stamp is not None:
        with suppress(StorageError):  # a cache that cannot be written is no fault
            write_atomically(known, format_json({"stamp": stamp, "sha256": digest}))
    return digest


def _ensure_unpacked(archive: Path, place: Path) -> None:
    """Unpack what is not there yet, and keep it from being deleted while this process lives."""
    with translate_storage_errors(place), lock_entry(place):
        sweep_drafts(place)
        if place.is_dir() and not is_complete(place):
            delete_unpacked(place)
        if not place.is_dir():
            _unpack_members(archive, place)
        mark_used(place, str(archive))


def _unpack_members(archive: Path, place: Path) -> None:
    with create_directory(place) as draft:
        archive_bytes = archive.stat().st_size
        free = int(shutil.disk_usage(draft).free * _RESERVED_SHARE)
        allowance = UnpackLimits(archive, archive_bytes, free)
        with allowance.reading(), archive.open("rb") as file:
            is_zip = file.read(4) in (_ZIP_START, _EMPTY_ZIP_START)
        is_zip = is_zip or archive.name.lower().endswith(_ZIP_SUFFIXES)
        members = (
            read_zip_members(archive, allowance) if is_zip else read_tar_members(archive, allowance)
        )
        extract_members(members, draft, allowance)


def _skip_wrapper_folders(folder: Path) -> Path:
    """The folder itself, or its one sub-folder where that holds class folders or an image list."""
    while True:
        with os.scandir(folder) as entries:
            names = [(entry.name, entry.is_dir()) for entry in entries]
        if len(names) != 1 or not names[0][1]:
            return folder
        inner = folder / names[0][0]
        with os.scandir(inner) as entries:
            holds_more = any(entry.is_dir() or is_list_name(entry.name) for entry in entries)
            if not holds_more:
                return folder
        with os.scandir(inner) as entries:
            if any(is_image_name(entry.name) for entry in entries) and not _has_list(inner):
                return folder  # images beside the folders: this is a class, not a wrapping
        folder = inner


def _has_list(folder: Path) -> bool:
    return any(is_list_name(entry.name) for entry in folder.iterdir())
