"""Files that are there whole or not at all, and what their bytes are.

A writer never touches the name it is to have: it writes beside it, syncs, and renames. What fails
for want of space or permission becomes a `StorageError` here.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trialrun.errors import StorageError

_READ_BYTES = 1 << 20
_MANY_FILES = 100


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says of a full disk or a closed door into `StorageError`."""
    try:
        yield
    except OSError as error:
        raise as_storage_error(f"cannot write {path}", error) from error


def as_storage_error(doing: str, error: OSError) -> StorageError:
    """What the operating system said while `doing` something, and what to do about it."""
    remedy = {
        errno.ENOSPC: "Free some space, or choose another folder.",
        errno.EDQUOT: "Free some of your quota, or choose another folder.",
        errno.EACCES: "Choose a folder you may write to.",
        errno.EROFS: "Choose a folder on a disk that is not read-only.",
    }.get(error.errno or 0, "Look at the folder's disk and permissions.")
    return StorageError(f"{doing}: {error.strerror or error}", remedy)


def write_durably(path: Path, content: bytes | str) -> None:
    """Put `content` at `path`, which afterwards holds the old bytes or the new ones, never a part.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    _write(path, content, is_durable=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """As `write_durably` as long as the power stays on: for what is checked when it is read.

    Syncing a small file may take as long as the disk has large ones to write.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    _write(path, content, is_durable=False)


def _write(path: Path, content: bytes | str, *, is_durable: bool) -> None:
    data = content.encode() if isinstance(content, str) else content
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        if is_durable:
            sync_folder(path.parent)


@contextmanager
def new_directory(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A folder to fill, which bears its name only once it is whole.

    Yields an empty folder beside `path`; on leaving, its files are synced and it is renamed. After
    an error nothing is left. What is not `durable` is not synced: for files that carry checksums.

    Raises:
        StorageError: `path` exists and is not an empty folder, or cannot be written.
    """
    with storage_errors(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StorageError(f"{path} exists already", "Choose a folder that is not there yet.")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield draft
            if durable:
                _sync_all([file for file in draft.rglob("*") if file.is_file()])
                sync_folder(draft)
            draft.chmod(0o755)
            draft.replace(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        if durable:
            sync_folder(path.parent)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty folder for as long as the block lasts, where the system keeps what is temporary.

    What cannot be removed afterwards is left there: threads of a download that failed may still
    be writing, and what is to be told is why it failed.

    Raises:
        StorageError: No folder for temporary files can be written to.
    """
    with storage_errors(Path("a temporary folder")):
        scratch = tempfile.TemporaryDirectory(prefix="trialrun-", ignore_cleanup_errors=True)
    with scratch as name:
        yield Path(name)


def _sync_all(files: list[Path]) -> None:
    """Sync each file; where they are many, everything at once, as each sync costs milliseconds."""
    if len(files) > _MANY_FILES:
        os.sync()
        return
    for file in files:
        _sync(file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    _sync(folder)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def as_json(value: Any) -> str:
    """JSON for people and diffs: indented, in any script, ending in a newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
