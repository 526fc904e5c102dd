"""Reading of the members of a .tar archive, plain or compressed by gzip or bzip2."""

import bz2
import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from trialrun.images.formats.archives.entries import ArchiveMember, UnpackLimits

_GZIP_START, _BZIP2_START = b"\x1f\x8b", b"BZh"
_BLOCK_BYTES = 512  # a tar ends with two blocks of zeros


def read_tar_members(path: Path, limits: UnpackLimits) -> Iterator[ArchiveMember]:
    """Yield every file of the archive in its order, counting all of its bytes.

    Raises:
        InvalidArchiveError: Damaged, truncated, or an entry that is not allowed.
    """
    with limits.translate_errors(), _open_decompressed(path) as stream:
        counted = _CountingStream(stream, limits)
        with tarfile.open(fileobj=cast("IO[bytes]", counted), mode="r|") as archive:
            for info in archive:
                if (member := _check_member(archive, info, limits)) is not None:
                    yield member
        counted.finish()


def _open_decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(3)
    if start.startswith(_GZIP_START):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if start.startswith(_BZIP2_START):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    return path.open("rb")


def _check_member(
    archive: tarfile.TarFile, info: tarfile.TarInfo, limits: UnpackLimits
) -> ArchiveMember | None:
    if not (info.isreg() or info.isdir()) or info.issparse():
        raise limits.rejection(f"has an entry that is a link or a device: {info.name!a}")
    name = limits.count_entry(info.name, is_folder=info.isdir())
    if info.isdir():
        return None
    if limits.num_bytes + info.size > limits.free_bytes:
        limits.count_bytes(info.size)
    content = archive.extractfile(info)
    assert content is not None, "a regular file"
    return ArchiveMember(name, info.size, content)


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
