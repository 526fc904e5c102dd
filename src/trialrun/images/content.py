"""An image file's bytes: from a plain file inside its set's folder, or not at all."""

import os
import stat
from functools import lru_cache
from pathlib import Path

from trialrun.images.header import UndecodableError

MAX_FILE_BYTES = 1 << 30  # no image of an allowed size in pixels needs more


def content_of(root: Path, name: str) -> bytes:
    """The bytes of the file `name` below `root`.

    Raises:
        UndecodableError: It is gone, no plain file, too large, or a link that leads out of `root`.
    """
    path = os.path.join(root, name)  # noqa: PTH118 - the pathlib way takes a third of the time
    try:
        if _leads_out(str(root), path):
            raise UndecodableError("a link that leads out of the folder")
        # A pipe that nobody writes to would hold an ordinary open for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UndecodableError("no plain file but a folder, pipe or device")
            if status.st_size > MAX_FILE_BYTES:
                raise UndecodableError(f"{status.st_size:,} bytes are too many for an image")
            return file.readall()
    except OSError as error:
        raise UndecodableError(f"cannot be read: {error.strerror or error}") from error


def _leads_out(root: str, path: str) -> bool:
    real_root = _real_folder(root)
    folder = _real_folder(os.path.dirname(path))  # noqa: PTH120
    if folder != real_root and not folder.startswith(real_root.rstrip("/") + "/"):
        return True
    if not os.path.islink(path):  # noqa: PTH114
        return False
    return not os.path.realpath(path).startswith(real_root.rstrip("/") + "/")


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
