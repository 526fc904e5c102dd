"""Reading of the members of a .tar archive, plain or compressed by gzip, bzip2, xz or zstd.

Most archives are read once, as a stream. One with links, or with names that are not UTF-8, is read
twice: which member a link points to, and which encoding the names have, depends on all names.
"""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from trialrun.config import AUTO_TEXT
from trialrun.images.formats.archives.encodings import UTF_8
from trialrun.images.formats.archives.entries import ArchiveMember, UnpackLimits
from trialrun.images.formats.archives.tar_index import TarIndex, build_index, is_declared

_BLOCK_BYTES = 512  # a tar ends with two blocks of zeros


class IndexNeededError(Exception):
    """The archive has links or names in an unknown encoding: read its index first."""


def read_tar_members(
    path: Path, limits: UnpackLimits, *, encoding: str = AUTO_TEXT, index: TarIndex | None = None
) -> Iterator[ArchiveMember]:
    """Yield every file of the archive in its order, counting all of its bytes.

    Raises:
        IndexNeededError: The archive cannot be read without an index.
        InvalidArchiveError: Damaged, truncated, or an entry that is not allowed.
    """
    with _open_tar(path, limits) as archive:
        for position, info in enumerate(archive):
            if index is None and _needs_index(info, encoding):
                raise IndexNeededError
            if (member := _check_member(archive, info, limits, index, position)) is not None:
                yield member


def read_tar_index(path: Path, limits: UnpackLimits, *, encoding: str) -> TarIndex:
    """Read the headers of all members, and return their names and the links between them.

    Raises:
        InvalidArchiveError: As `read_tar_members`, or a link leads out of the archive or nowhere.
    """
    with _open_tar(path, limits) as archive:
        infos: Sequence[tarfile.TarInfo] = list(archive)
    return build_index(infos, limits, encoding)


@contextmanager
def _open_tar(path: Path, limits: UnpackLimits) -> Iterator[tarfile.TarFile]:
    with limits.translate_errors(), _open_decompressed(path) as stream:
        counted = _CountingStream(stream, limits)
        fileobj = cast("IO[bytes]", counted)
        # The names' bytes are decoded by `TarIndex`; UTF-8 is the default of most systems.
        with tarfile.open(
            fileobj=fileobj, mode="r|", encoding=UTF_8, errors="surrogateescape"
        ) as archive:
            yield archive
        counted.finish()


def _open_zstd(path: Path) -> object:
    from pyarrow import CompressedInputStream

    return CompressedInputStream(path.open("rb"), "zstd")


_OPENERS: dict[bytes, Callable[[Path], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"\x50\x2a\x4d\x18": _open_zstd,  # the skippable frame that pzstd writes first
}


def _open_decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    for magic, open_file in _OPENERS.items():
        if start.startswith(magic):
            return cast("IO[bytes]", open_file(path))
    return path.open("rb")


def _needs_index(info: tarfile.TarInfo, encoding: str) -> bool:
    if info.issym() or info.islnk():
        return True
    if info.name.isascii() or is_declared(info):
        return False
    try:
        info.name.encode(UTF_8)
    except UnicodeEncodeError:  # bytes that are not UTF-8
        return True
    return encoding not in (AUTO_TEXT, UTF_8)


def _check_member(
    archive: tarfile.TarFile,
    info: tarfile.TarInfo,
    limits: UnpackLimits,
    index: TarIndex | None,
    position: int,
) -> ArchiveMember | None:
    if index is not None and (info.issym() or info.islnk()):
        return None  # written with the member that it points to
    if not (info.isreg() or info.isdir()) or info.issparse():
        raise limits.rejection(f"has an entry that is a link or a device: {info.name!a}")
    name = info.name if index is None else index.names[position]
    name = limits.count_entry(name, is_folder=info.isdir())
    if info.isdir():
        return None
    if limits.num_bytes + info.size > limits.free_bytes:
        limits.count_bytes(info.size)
    content = archive.extractfile(info)
    assert content is not None, "a regular file"
    aliases = () if index is None else tuple(index.links_to.get(name, ()))
    return ArchiveMember(name, info.size, content, aliases)


class _CountingStream:
    """A stream that counts decompressed bytes and keeps the last two blocks."""

    def __init__(self, stream: IO[bytes], limits: UnpackLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._tail = b""

    def read(self, num_bytes: int) -> bytes:
        """Read as `IO.read` does."""
        chunk = self._stream.read(num_bytes)
        self._limits.count_bytes(len(chunk))
        self._tail = (self._tail + chunk)[-2 * _BLOCK_BYTES :]
        return chunk

    def finish(self) -> None:
        """Read to the end and check for two zero blocks: tarfile accepts truncated archives."""
        while self.read(1 << 20):
            pass
        if self._tail != bytes(2 * _BLOCK_BYTES):
            raise tarfile.ReadError("it is truncated")
