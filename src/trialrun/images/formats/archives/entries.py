"""Checks and extraction of archive members, common to all archive formats."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from trialrun.errors import InvalidArchiveError, TrialrunError, summarize_error
from trialrun.files import translate_storage_errors
from trialrun.images.dataset import make_printable
from trialrun.images.formats import is_list_name
from trialrun.images.scanning.walk import is_image_name, is_system_name

_MAX_ENTRIES = 5_000_000
_MAX_RATIO = 200  # photographs hardly shrink in an archive; drawings may by ten or twenty times
_RATIO_FREE_BYTES = 100 * 10**6  # the ratio is not limited below this size

# What the standard library's readers raise for damaged archives, depending on the damage.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    NotImplementedError,  # zipfile: unknown compression or flag
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    OverflowError,
    struct.error,
)
_COPY_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1024
_MAX_DEPTH = 64  # limits memory: all parent folders of every entry are stored
_MAX_SHOWN = 80  # characters of a long name in an error message
_HINT = "Unpack it yourself with a tool you trust, check its files, and give the folder."


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One file of an archive: name, declared size, content."""

    name: str
    num_bytes: int
    content: IO[bytes]


@dataclass(slots=True)
class UnpackLimits:
    """Limits of one archive, and counts of what was unpacked from it so far."""

    archive: Path
    archive_bytes: int
    free_bytes: int
    num_entries: int = 0
    num_bytes: int = 0
    _files: set[str] = field(default_factory=set)
    _folders: set[str] = field(default_factory=set)

    def rejection(self, reason: str) -> InvalidArchiveError:
        """Return the error to raise for this archive."""
        return InvalidArchiveError(f"{self.archive}: {reason}", _HINT)

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn errors of the standard library's readers into `InvalidArchiveError`."""
        try:
            yield
        except TrialrunError:
            raise
        except _DAMAGE_ERRORS as error:
            raise self.rejection(
                f"is not an archive, or damaged: {summarize_error(error)}"
            ) from error

    def count_bytes(self, num_bytes: int) -> None:
        """Count declared or decompressed bytes.

        Raises:
            InvalidArchiveError: The total exceeds the ratio or the free space.
        """
        self.num_bytes += num_bytes
        if self.num_bytes > max(_RATIO_FREE_BYTES, _MAX_RATIO * self.archive_bytes):
            raise self.rejection(
                f"unpacks to more than {_MAX_RATIO} times its {self.archive_bytes:,} bytes"
            )
        if self.num_bytes > self.free_bytes:
            raise self.rejection(
                f"unpacks to more than the {self.free_bytes:,} bytes that are free"
            )

    def count_entry(self, name: str, *, is_folder: bool) -> str:
        """Count an entry, check its name and return the normalized name.

        Raises:
            InvalidArchiveError: Too many entries, or the name is invalid, leads out of the folder
                or is a duplicate.
        """
        self.num_entries += 1
        if self.num_entries > _MAX_ENTRIES:
            raise self.rejection(f"has more than {_MAX_ENTRIES:,} entries")
        path = self._normalize(name)
        if is_folder:
            self._folders.add(path)
        elif path in self._files:
            raise self.rejection(f"has {make_printable(path)} twice")
        else:
            self._files.add(path)
        parents = [str(parent) for parent in PurePosixPath(path).parents]
        self._folders.update(parents)
        if not self._files.isdisjoint([path] if is_folder else parents) or (
            not is_folder and path in self._folders
        ):
            raise self.rejection(f"has {make_printable(path)} as a file and as a folder")
        return path

    def _normalize(self, name: str) -> str:
        if _count_bytes(name) > _MAX_PATH_BYTES:
            raise self._long_name_rejection(name)
        path = PurePosixPath(name)
        if len(path.parts) > _MAX_DEPTH:
            raise self.rejection(
                f"has more than {_MAX_DEPTH} nested folders: {name[:_MAX_SHOWN]!a}..."
            )
        if "\\" in name:
            raise self.rejection(
                f"has a backslash in a name, which leads out on Windows: {make_printable(name)}"
            )
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            raise self.rejection(
                f"has an entry that leads out of the folder: {make_printable(name)}"
            )
        if "\0" in name or (not path.parts and name not in (".", "./")):
            raise self.rejection(f"has an entry without a valid name: {name!a}")
        if any(_count_bytes(part) > _MAX_NAME_BYTES for part in path.parts):
            raise self._long_name_rejection(name)
        return str(path)

    def _long_name_rejection(self, name: str) -> InvalidArchiveError:
        return self.rejection(
            f"has a name that is too long: {make_printable(name[:_MAX_SHOWN])}..."
        )


def extract_members(members: Iterable[ArchiveMember], folder: Path, limits: UnpackLimits) -> None:
    """Write the images and image lists among `members` below `folder`.

    Raises:
        InvalidArchiveError: A member is rejected, damaged or longer or shorter than declared.
        StorageError: The disk is full, or `folder` cannot be written.
    """
    created: set[Path] = set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        is_needed = is_image_name(member.name) or is_list_name(member.name)
        if not is_needed or any(is_system_name(part) for part in parts):
            continue
        target = folder / member.name
        if target.parent not in created:
            with translate_storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            created.add(target.parent)
        if _copy_file(member, target, limits) != member.num_bytes:
            raise limits.rejection(f"{make_printable(member.name)} differs from its declared size")


def _count_bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogateescape"))


def _copy_file(member: ArchiveMember, target: Path, limits: UnpackLimits) -> int:
    """Write one file and return its size; stops within a chunk after the declared size."""
    num_written = 0
    with translate_storage_errors(target):
        file = target.open("xb")
    with file:
        while num_written <= member.num_bytes:
            with limits.translate_errors():
                chunk = member.content.read(_COPY_BYTES)
            if not chunk:
                break
            with translate_storage_errors(target):
                file.write(chunk)
            num_written += len(chunk)
    return num_written
