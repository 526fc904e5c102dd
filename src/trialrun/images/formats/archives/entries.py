"""What any archive's entries must obey, whatever the format, and how they come onto the disk."""

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
from trialrun.images.scanning.walk import is_image_name, is_system_name

_MAX_ENTRIES = 5_000_000
# Photographs hardly shrink in an archive; drawings may by ten or twenty times.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 100 * 10**6  # below this nobody is harmed

# What the readers of the standard library raise for damage, none of them always the same.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    NotImplementedError,  # zipfile's word for a compression or a flag that it does not know
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    OverflowError,
    struct.error,
)
_LIST_SUFFIXES = (".lst", ".json", ".jsonl", ".csv", ".parquet", ".yaml")
_COPY_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1024
_MAX_DEPTH = 64  # every folder on the way is counted, for every entry
_HINT = "Unpack it yourself with a tool you trust, look at it, and give the folder."


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One file of an archive: its name, its size as declared, and its bytes."""

    name: str
    num_bytes: int
    content: IO[bytes]


@dataclass(slots=True)
class UnpackLimits:
    """How much an archive may still bring; whoever unpacks counts against it."""

    archive: Path
    archive_bytes: int
    free_bytes: int
    num_entries: int = 0
    num_bytes: int = 0
    _files: set[str] = field(default_factory=set)
    _folders: set[str] = field(default_factory=set)

    def refused(self, what: str) -> InvalidArchiveError:
        """The error that refuses the archive, to be raised."""
        return InvalidArchiveError(f"{self.archive}: {what}", _HINT)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what is raised for a damaged archive into the error that refuses it."""
        try:
            yield
        except TrialrunError:
            raise
        except _DAMAGE as error:
            raise self.refused(f"is no archive, or damaged: {summarize_error(error)}") from error

    def count_bytes(self, num_bytes: int) -> None:
        """So many more bytes are declared, or come out of the decompressor.

        Raises:
            InvalidArchiveError: They are too many.
        """
        self.num_bytes += num_bytes
        if self.num_bytes > max(_RATIO_FREE_BYTES, _MAX_RATIO * self.archive_bytes):
            raise self.refused(
                f"unpacks to more than {_MAX_RATIO} times its {self.archive_bytes:,} bytes"
            )
        if self.num_bytes > self.free_bytes:
            raise self.refused(f"unpacks to more than the {self.free_bytes:,} bytes that are free")

    def count_entry(self, name: str, *, is_folder: bool) -> str:
        """One more entry; its name with nothing superfluous in it.

        Raises:
            InvalidArchiveError: The name leads out, is there twice, or there are too many.
        """
        self.num_entries += 1
        if self.num_entries > _MAX_ENTRIES:
            raise self.refused(f"has more than {_MAX_ENTRIES:,} entries")
        clean = self._clean(name)
        if is_folder:
            self._folders.add(clean)
        elif clean in self._files:
            raise self.refused(f"has {make_printable(clean)} twice")
        else:
            self._files.add(clean)
        parents = [str(parent) for parent in PurePosixPath(clean).parents]
        self._folders.update(parents)
        if not self._files.isdisjoint([clean] if is_folder else parents) or (
            not is_folder and clean in self._folders
        ):
            raise self.refused(f"has {make_printable(clean)} as a file and as a folder")
        return clean

    def _clean(self, name: str) -> str:
        if len(name.encode("utf-8", "surrogateescape")) > _MAX_PATH_BYTES:
            raise self.refused(f"has a name that is too long: {make_printable(name[:80])}...")
        path = PurePosixPath(name)
        if len(path.parts) > _MAX_DEPTH:
            raise self.refused(f"has more than {_MAX_DEPTH} nested folders: {name[:80]!a}...")
        if "\\" in name:
            raise self.refused(
                f"has a backslash in a name, which leads out on Windows: {make_printable(name)}"
            )
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            raise self.refused(f"has an entry that leads out of the folder: {make_printable(name)}")
        if "\0" in name or (not path.parts and name not in (".", "./")):
            raise self.refused(f"has an entry without a proper name: {name!a}")
        if any(
            len(part.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES for part in path.parts
        ):
            raise self.refused(f"has a name that is too long: {make_printable(name[:80])}...")
        return str(path)


def is_list_name(name: str) -> bool:
    """Whether a file of that name may be an image list or belong to one."""
    return name.lower().endswith(_LIST_SUFFIXES)


def extract_members(
    members: Iterable[ArchiveMember], folder: Path, allowance: UnpackLimits
) -> None:
    """Write the images and image lists among `members` below `folder`.

    Raises:
        InvalidArchiveError: As `members` and `allowance` find; or sizes are false.
        StorageError: The disk is full, or `folder` cannot be written.
    """
    made: set[Path] = set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        wanted = is_image_name(member.name) or is_list_name(member.name)
        if not wanted or any(is_system_name(part) for part in parts):
            continue
        target = folder / member.name
        if target.parent not in made:
            with translate_storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        if _copy_file(member, target, allowance) != member.num_bytes:
            raise allowance.refused(f"{make_printable(member.name)} is not as long as it says")


def _copy_file(member: ArchiveMember, target: Path, allowance: UnpackLimits) -> int:
    """Write one file; how many bytes came, of which at most a piece is more than declared."""
    written = 0
    with translate_storage_errors(target):
        file = target.open("xb")
    with file:
        while written <= member.num_bytes:
            with allowance.reading():
                piece = member.content.read(_COPY_BYTES)
            if not piece:
                break
            with translate_storage_errors(target):
                file.write(piece)
            written += len(piece)
    return written
