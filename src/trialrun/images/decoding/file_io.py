"""An image file's bytes: from a plain file inside its set's folder, or not at all."""

import errno
import os
import stat
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trialrun.images.decoding.header import (
    TOO_LARGE_FOR_MEMORY,
    TransientDecodeError,
    UndecodableError,
)

_MAX_FILE_BYTES = 1 << 30  # no image of an allowed size in pixels needs more

_SETTLED_SECONDS = 2.0  # coarser than the time stamps of any file system in use
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe would else be waited for
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

# Size, inode, time of modification and of change in ns. Nobody can set the last one back.
FileFingerprint = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file's bytes; while the file has the same `stamp` it has the same bytes.

    No stamp where the file was changed less than two seconds before it was read: a later change
    might then leave the times as they are.
    """

    data: bytes
    stamp: FileFingerprint | None


def read_file(root: Path, name: str) -> bytes:
    """The bytes of the file `name` below `root`.

    Raises:
        UndecodableError: No plain file, too large, or a link that leads out of `root`.
        PassingError: It is gone or cannot be read now.
    """
    return read_file_with_fingerprint(root, name).data


def read_file_with_fingerprint(root: Path, name: str) -> FileContent:
    """The same, with the stamp that the file had when its reading began.

    Raises:
        UndecodableError: As `content_of`.
    """
    path = os.path.join(root, name)  # noqa: PTH118 - the pathlib way takes a third of the time
    try:
        descriptor = _open_file(str(root), path)
        try:
            return _read_content(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TransientDecodeError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise TransientDecodeError(TOO_LARGE_FOR_MEMORY) from None


def read_fingerprint(root: str, name: str) -> FileFingerprint | None:
    """The stamp that a file has now; None where there is no such file."""
    try:
        return _make_fingerprint(os.stat(os.path.join(root, name)))  # noqa: PTH116, PTH118 - speed
    except OSError:
        return None


def read_stable_fingerprint(path: Path) -> FileFingerprint | None:
    """The stamp of a file whose times any later change would move; None where it may be too new.

    Raises:
        OSError: There is no such file.
    """
    status = path.stat()
    return _make_fingerprint(status) if _is_stable(status) else None


def _is_stable(status: os.stat_result) -> bool:
    return time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_SECONDS


def _make_fingerprint(status: os.stat_result) -> FileFingerprint:
    return (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _open_file(root: str, path: str) -> int:
    real_root = _resolve_folder(root)
    folder = _resolve_folder(os.path.dirname(path))  # noqa: PTH120
    if not _is_within(folder, real_root):
        raise UndecodableError("a link that leads out of the folder")
    try:
        return os.open(path, _OPEN_FLAGS | _NO_LINK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):  # how systems say that it is a link
            raise
    real = os.path.realpath(path)
    if not _is_within(real, real_root):
        raise UndecodableError("a link that leads out of the folder")
    return os.open(real, _OPEN_FLAGS | _NO_LINK)


def _is_within(path: str, real_root: str) -> bool:
    return path == real_root or path.startswith(real_root.rstrip("/") + "/")


def _read_content(descriptor: int) -> FileContent:
    """By descriptor: a file object takes a third of the time that a small image takes in all."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UndecodableError("no plain file but a folder, pipe or device")
    if status.st_size > _MAX_FILE_BYTES:
        raise UndecodableError(f"{status.st_size:,} bytes are too many for an image")
    data = os.read(descriptor, status.st_size)
    while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
        data += more
    return FileContent(data, _make_fingerprint(status) if _is_stable(status) else None)


@lru_cache(maxsize=4096)
def _resolve_folder(folder: str) -> str:
    return os.path.realpath(folder)
