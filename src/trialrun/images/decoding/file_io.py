"""Reading of image files, with a fingerprint of each file's state.

Only regular files inside the image set's folder are read; pipes and devices are rejected, and links
that lead out of the folder unless they are to be followed.
"""

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from trialrun.images.dataset import ImageItem, ImageSet, ShardedContent
from trialrun.images.decoding.header import (
    OUT_OF_MEMORY_REASON,
    TransientDecodeError,
    UndecodableError,
)
from trialrun.images.items import ItemTable

Value = TypeVar("Value")

OUTSIDE_REASON = "a link that leads out of the folder"

_MAX_FILE_BYTES = 1 << 30  # no image within the pixel limit needs more

_STABLE_SECONDS = 2.0  # coarser than the time stamps of any file system in use
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # opening a pipe would block otherwise
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

# Size, inode, modification time and change time in ns. The change time cannot be set back.
FileFingerprint = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file's content; the file has the same content while it has the same `fingerprint`.

    `fingerprint` is None if the file was changed less than two seconds before it was read: a
    further change might not change the times.
    """

    data: bytes
    fingerprint: FileFingerprint | None


def read_file(root: Path, name: str, *, follow_links: bool = False) -> bytes:
    """Read the file `name` below `root`.

    Raises:
        UndecodableError: Not a regular file, too large, or a link that leads out of `root` and is
            not to be followed.
        TransientDecodeError: The file does not exist or cannot be read now.
    """
    return read_file_with_fingerprint(root, name, follow_links=follow_links).data


def read_file_with_fingerprint(root: Path, name: str, *, follow_links: bool = False) -> FileContent:
    """Read the file `name` below `root`, with its fingerprint from before reading.

    Raises:
        UndecodableError: As `read_file`.
        TransientDecodeError: As `read_file`.
    """
    path = os.path.join(root, name)  # noqa: PTH118 - pathlib would take a third of the total time
    try:
        descriptor = os.open(path, _OPEN_FLAGS) if follow_links else _open_file(str(root), path)
        try:
            return _read_content(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TransientDecodeError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise TransientDecodeError(OUT_OF_MEMORY_REASON) from None


def read_item(images: ImageSet, item: ImageItem) -> FileContent:
    """Read the file of an image, as `read_file_with_fingerprint`; in shards it has no fingerprint.

    Raises:
        UndecodableError: See `read_file`.
        TransientDecodeError: See `read_file`.
        InvalidDatasetError: The shard of the image vanished or changed.
        StorageError: The store of the shards does not answer, or the cache has no room for a shard.
    """
    if images.shards is not None and item.row is not None:
        return FileContent(images.shards.read(item.row), None)
    return read_file_with_fingerprint(images.root, item.name, follow_links=images.follow_links)


def hold_rows(images: ImageSet, rows: Iterable[int]) -> Iterator[int]:
    """Yield rows of the set for reading by threads; shards are downloaded before they need them."""
    items = images.items
    if images.shards is None or not isinstance(items, ItemTable):
        return iter(rows)
    return _hold(images.shards, rows, lambda row: int(items.rows[row]))


def hold_items(images: ImageSet, items: Iterable[ImageItem]) -> Iterator[ImageItem]:
    """Yield items of the set, as `hold_rows`."""
    if images.shards is None:
        return iter(items)
    return _hold(images.shards, items, lambda item: item.row or 0)


def _hold(
    shards: ShardedContent, values: Iterable[Value], find_row: Callable[[Value], int]
) -> Iterator[Value]:
    waiting: deque[Value] = deque()

    def find_rows() -> Iterator[int]:
        for value in values:
            waiting.append(value)
            yield find_row(value)

    for _ in shards.hold_in_order(find_rows()):
        yield waiting.popleft()


def read_fingerprint(root: str, name: str) -> FileFingerprint | None:
    """Return a file's current fingerprint, or None if the file does not exist."""
    try:
        return _make_fingerprint(os.stat(os.path.join(root, name)))  # noqa: PTH116, PTH118 - speed
    except OSError:
        return None


def read_stable_fingerprint(path: Path) -> FileFingerprint | None:
    """Return a file's fingerprint, or None if it changed less than two seconds ago.

    Raises:
        OSError: The file does not exist.
    """
    status = path.stat()
    return _make_fingerprint(status) if _is_stable(status) else None


def _is_stable(status: os.stat_result) -> bool:
    return time.time() - max(status.st_mtime, status.st_ctime) > _STABLE_SECONDS


def _make_fingerprint(status: os.stat_result) -> FileFingerprint:
    return (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _open_file(root: str, path: str) -> int:
    real_root = _resolve_folder(root)
    folder = _resolve_folder(os.path.dirname(path))  # noqa: PTH120
    if not _is_within(folder, real_root):
        raise UndecodableError(OUTSIDE_REASON)
    try:
        return os.open(path, _OPEN_FLAGS | _NO_LINK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK):  # raised for links
            raise
    real = os.path.realpath(path)
    if not _is_within(real, real_root):
        raise UndecodableError(OUTSIDE_REASON)
    return os.open(real, _OPEN_FLAGS | _NO_LINK)


def _is_within(path: str, real_root: str) -> bool:
    return path == real_root or path.startswith(real_root.rstrip("/") + "/")


def _read_content(descriptor: int) -> FileContent:
    """Read by descriptor: a file object would cost a third of a small image's total time."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UndecodableError("not a regular file but a folder, pipe or device")
    if status.st_size > _MAX_FILE_BYTES:
        raise UndecodableError(f"{status.st_size:,} bytes are too many for an image")
    data = os.read(descriptor, status.st_size)
    while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
        data += more
    return FileContent(data, _make_fingerprint(status) if _is_stable(status) else None)


@lru_cache(maxsize=4096)
def _resolve_folder(folder: str) -> str:
    return os.path.realpath(folder)
