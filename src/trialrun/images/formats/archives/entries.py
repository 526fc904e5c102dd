"""Checks and extraction of archive members, common to all archive formats."""

import errno
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from trialrun.config import AUTO_TEXT
from trialrun.errors import InvalidArchiveError, TrialrunError, summarize_error
from trialrun.files import translate_storage_errors
from trialrun.images.dataset import make_printable
from trialrun.images.formats import is_list_name
from trialrun.images.formats.archives.encodings import UTF_8, check_encoding, detect_encoding
from trialrun.images.notes import LeftOut, format_examples
from trialrun.images.scanning.walk import is_image_name, is_system_name

_MAX_ENTRIES = 5_000_000
_MAX_RATIO = 200  # photographs hardly shrink in an archive; drawings may by ten or twenty times
_RATIO_FREE_BYTES = 100 * 10**6  # the ratio is not limited below this size

# What the standard library's readers raise for damaged archives, depending on the damage.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
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
    """One file of an archive: name, declared size, content, and names of links to it."""

    name: str
    num_bytes: int
    content: IO[bytes]
    aliases: tuple[str, ...] = ()


@dataclass(slots=True)
class UnpackLimits:
    """Limits of one archive, and counts of what was unpacked from it and left out so far.

    `encoding_notes` say which encoding names without a declared one are read in.
    """

    archive: Path
    archive_bytes: int
    free_bytes: int
    num_entries: int = 0
    num_bytes: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    encoding_notes: tuple[str, ...] = ()
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

    def notes(self) -> tuple[str, ...]:
        """Describe what was left out, and how names were read."""
        return (*self.encoding_notes, *self.left_out.notes())

    def is_folder(self, name: str) -> bool:
        """Whether an entry counted so far is a folder with this name, or is inside of it."""
        return name in self._folders

    def choose_decoder(self, names: Sequence[bytes], encoding: str) -> Callable[[bytes], str]:
        """Return the function that decodes names without a declared encoding.

        Raises:
            InvalidArchiveError: A name is not in the `encoding` of the setting.
            InvalidParameterError: The setting is not an encoding.
        """
        is_given = encoding != AUTO_TEXT
        chosen = check_encoding(encoding) if is_given else detect_encoding(names)
        try:
            decoded = [name.decode(chosen) for name in names if not name.isascii()]
        except UnicodeDecodeError:
            raise InvalidArchiveError(
                f"{self.archive}: a name is not in the encoding archive_encoding={encoding}",
                "Give another encoding, or auto to detect it.",
            ) from None
        if decoded:
            how = "by archive_encoding" if is_given else "detected; set archive_encoding if wrong"
            self.encoding_notes = (
                f"{len(decoded)} names without a declared encoding are read as {chosen} ({how}), "
                f"for example {format_examples(decoded)}",
            )
        return lambda name: name.decode(UTF_8 if name.isascii() else chosen)

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
        if "\\" in name:  # .NET before 4.6.1 writes them, although the zip format does not allow it
            self.left_out.add("names with backslashes, read as separators of folders", name)
            name = name.replace("\\", "/")
        path = PurePosixPath(name)
        if len(path.parts) > _MAX_DEPTH:
            raise self.rejection(
                f"has more than {_MAX_DEPTH} nested folders: {name[:_MAX_SHOWN]!a}..."
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
        names = [name for name in (member.name, *member.aliases) if is_needed(name)]
        if not names:
            if not _is_system_path(member.name):
                limits.left_out.add(
                    "files of the archive are neither images nor image lists (not unpacked)",
                    member.name,
                )
            continue
        first, *links = [_prepare_target(folder / name, created) for name in names]
        if _copy_file(member, first, limits) != member.num_bytes:
            raise limits.rejection(f"{make_printable(member.name)} differs from its declared size")
        for link in links:
            _link_file(first, link, limits)


def is_needed(name: str) -> bool:
    """Whether a file with this name is unpacked: an image or an image list."""
    return (is_image_name(name) or is_list_name(name)) and not _is_system_path(name)


def _is_system_path(name: str) -> bool:
    return any(is_system_name(part) for part in PurePosixPath(name).parts)


def _prepare_target(target: Path, created: set[Path]) -> Path:
    """Create the folder of a file to write, unless it is in `created`."""
    if target.parent not in created:
        with translate_storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        created.add(target.parent)
    return target


def _link_file(target: Path, link: Path, limits: UnpackLimits) -> None:
    """Make `link` a hard link to `target`, or a copy where that is not possible."""
    with translate_storage_errors(link):
        try:
            os.link(target, link)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            limits.count_bytes(target.stat().st_size)
            shutil.copyfile(target, link)


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
