"""The entries of a .tar, plain or compressed by gzip or bzip2, read from front to back."""

import bz2
import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from trialrun.images.formats.archives.entries import ArchiveMember, UnpackLimits

_GZIP_START, _BZIP2_START = b"\x1f\x8b", b"BZh"
_BLOCK_BYTES = 512  # a tar ends with two blocks of zeros


def read_tar_members(path: Path, allowance: UnpackLimits) -> Iterator[ArchiveMember]:
    """Every file of the archive, in its order; nothing is skipped uncounted.

    Raises:
        InvalidArchiveError: Damaged, truncated, or an entry that must not be.
    """
    with allowance.reading(), _decompress_stream(path) as plain:
        counted = _CountingStream(plain, allowance)
        with tarfile.open(fileobj=cast("IO[bytes]", counted), mode="r|") as archive:
            for info in archive:
                if (member := _check_member(archive, info, allowance)) is not None:
                    yield member
        counted.finish()


def _decompress_stream(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(3)
    if start.startswith(_GZIP_START):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if start.startswith(_BZIP2_START):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    return path.open("rb")


def _check_member(
    archive: tarfile.TarFile, info: tarfile.TarInfo, allowance: UnpackLimits
) -> ArchiveMember | None:
    if not (info.isreg() or info.isdir()) or info.issparse():
        raise allowance.refused(f"has an entry that is a link or a device: {info.name!a}")
    name = allowance.count_entry(info.name, is_folder=info.isdir())
    if info.isdir():
        return None
    if allowance.num_bytes + info.size > allowance.free_bytes:
        allowance.count_bytes(info.size)
    content = archive.extractfile(info)
    assert content is not None, "a regular file"
    return ArchiveMember(name, info.size, content)


class _CountingStream:
    """A stream that counts what comes out of the decompressor, and remembers how it ended."""

    def __init__(self, stream: IO[bytes], allowance: UnpackLimits) -> None:
        self._stream = stream
        self._allowance = allowance
        self._tail = b""

    def read(self, num_bytes: int) -> bytes:
        """As a file's `read`."""
        piece = self._stream.read(num_bytes)
        self._allowance.count_bytes(len(piece))
        self._tail = (self._tail + piece)[-2 * _BLOCK_BYTES :]
        return piece

    def finish(self) -> None:
        """Read to the end, where zeros must stand: tarfile takes a cut archive for a whole one."""
        while self.read(1 << 20):
            pass
        if self._tail != bytes(2 * _BLOCK_BYTES):
            raise tarfile.ReadError("it is truncated")
