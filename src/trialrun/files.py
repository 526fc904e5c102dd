"""Atomic writing of files and folders, and hashing of files.

A draft is a temporary file or folder beside its target. Writers fill a draft, flush it to disk and
rename it, so that the target is either complete or unchanged. Errors of the operating system are
raised as `StorageError`.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock, Timeout

from trialrun.errors import InvalidParameterError, StorageError

FILE_SCHEME = "file:"

LOCK_SUFFIX = ".lock"

_READ_BYTES = 1 << 20
_MANY_FILES = 100
_DRAFT_NAME_BYTES = 200  # of the allowed 255, to leave room for a draft's suffix


@contextmanager
def translate_storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` during writing of `path` into `StorageError`."""
    try:
        yield
    except OSError as error:
        raise as_storage_error(f"cannot write {path}", error) from error


def as_storage_error(action: str, error: OSError) -> StorageError:
    """Return a `StorageError` for an `OSError` during `action`, with a hint for its cause."""
    hint = {
        errno.ENOSPC: "Free some space, or choose another folder.",
        errno.EDQUOT: "Free some of your quota, or choose another folder.",
        errno.EACCES: "Choose a folder you may write to.",
        errno.EROFS: "Choose a folder on a disk that is not read-only.",
        errno.EBUSY: "A disk may be mounted there: name a folder in it.",
    }.get(error.errno or 0, "Check the folder's disk and permissions.")
    return StorageError(f"{action}: {error.strerror or error}", hint)


def write_durably(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` atomically, and flush it to disk.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    _write_file(path, content, is_durable=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` atomically, but without protection against a power failure.

    For files that are verified when they are read. Flushing a small file may wait for large ones.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    _write_file(path, content, is_durable=False)


def _write_file(path: Path, content: bytes | str, *, is_durable: bool) -> None:
    data = content.encode() if isinstance(content, str) else content
    with translate_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _choose_draft_path(path)
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                if is_durable:
                    os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        if is_durable:
            _sync(path.parent)


@contextmanager
def replace_durably(path: Path) -> Iterator[Path]:
    """Create or replace the file `path` atomically; yields the path of the draft to write.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    with translate_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _choose_draft_path(path)
        try:
            yield draft
            _sync(draft)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def _choose_draft_path(path: Path) -> Path:
    """Return a new name beside `path`, within the length limit of file systems.

    `tempfile` is not used: it gives mode 0600 instead of the one by the user's umask.
    """
    start = os.fsencode(path.name)[:_DRAFT_NAME_BYTES].decode("utf-8", "ignore")
    return path.with_name(f".{start}.{secrets.token_hex(6)}")


@contextmanager
def create_directory(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Create the folder `path` atomically; yields the draft folder to fill.

    On exit, the files are flushed to disk and the draft is renamed; after an error it is deleted.
    Without `durable` nothing is flushed: for files that carry checksums.

    Raises:
        StorageError: `path` exists and is not an empty folder, or cannot be written.
    """
    with translate_storage_errors(path):
        target = _resolve_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = _choose_draft_path(target)
        draft.mkdir()
    try:
        yield draft
        with translate_storage_errors(path):
            if durable:
                _sync_all([file for file in draft.rglob("*") if file.is_file()])
                _sync(draft)
            draft.replace(target)
            if durable:
                _sync(target.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _resolve_target(path: Path) -> Path:
    """Resolve links in the path of a folder to create.

    Raises:
        StorageError: `path` exists and is not an empty folder that can be replaced.
    """
    if path.is_symlink() and not path.exists():
        raise StorageError(
            f"{path} is a link to {path.readlink()}, which does not exist",
            "Create that folder, or remove the link.",
        )
    if path.exists():
        if not path.is_dir() or any(path.iterdir()):
            raise StorageError(f"{path} exists already", "Choose a folder that does not exist.")
        if path.samefile(Path.cwd()):
            raise StorageError(
                f"{path} is the current folder, which cannot be replaced by a new one",
                "Name a folder in it.",
            )
    return path.resolve()


def clear_directory(folder: Path) -> None:
    """Delete everything in a folder, but not the folder.

    Raises:
        StorageError: Deletion is not permitted.
    """
    with translate_storage_errors(folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def remove_directory(folder: Path) -> bool:
    """Delete a folder atomically, by renaming it first; return False if that is not permitted."""
    trash = folder.with_name(f".{folder.name}.trash-{secrets.token_hex(6)}")
    try:
        folder.rename(trash)
    except FileNotFoundError:  # another process has deleted it
        return True
    except OSError:
        return False
    shutil.rmtree(trash, ignore_errors=True)
    return True


def sweep_drafts(target: Path) -> None:
    """Delete drafts and trash of `target` left by killed processes; requires the target's lock."""
    for draft in target.parent.glob(f".{target.name}.*"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def sweep_unlocked_drafts(folder: Path) -> int:
    """Delete the drafts in `folder` of targets without a held lock; return the others' bytes.

    Requires that the targets have no dot in their names.
    """
    drafts_by_target: dict[Path, list[Path]] = defaultdict(list)
    for draft in folder.glob(".*.*"):
        drafts_by_target[folder / draft.name[1:].partition(".")[0]].append(draft)
    num_bytes = 0
    for target, drafts in drafts_by_target.items():
        try:
            with FileLock(lock_path(target)).acquire(timeout=0):
                sweep_drafts(target)
        except (Timeout, OSError):
            num_bytes += sum(map(measure_bytes, drafts))
    return num_bytes


def lock_path(target: Path) -> Path:
    """Return the lock file of `target`, held by the process that creates or deletes `target`."""
    return target.with_name(target.name + LOCK_SUFFIX)


def measure_bytes(folder: Path) -> int:
    """Return the size of the files below a folder, each file with several names once.

    What other processes rename or delete in the meantime counts as nothing.
    """
    sizes: dict[tuple[int, int], int] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118 - as of os.walk
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield an empty temporary folder and delete it on exit.

    Files that cannot be deleted remain, without an error: threads of a failed download may still
    write, and the cause of that failure is the error to raise.

    Raises:
        StorageError: No folder for temporary files is writable.
    """
    with translate_storage_errors(Path("a temporary folder")):
        scratch = tempfile.TemporaryDirectory(prefix="trialrun-", ignore_cleanup_errors=True)
    with scratch as name:
        yield Path(name)


def _sync_all(files: list[Path]) -> None:
    """Flush files to disk; all file systems at once if there are many, as each call takes ms."""
    if len(files) > _MANY_FILES:
        os.sync()
        return
    for file in files:
        _sync(file)


def _sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_file(uri: str) -> Path:
    """Return the path that a file: URI names, with %20 and the like decoded.

    A file whose name has the undecoded text is found too.

    Raises:
        InvalidParameterError: The URI names another machine.
    """
    text = uri.removeprefix(FILE_SCHEME)
    if text.startswith("//"):
        host, slash, rest = text[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidParameterError(
                f"{uri} is a file of the machine {host}", "Mount its disk, and give the path."
            )
        text = slash + rest
    decoded = Path(unquote(text, errors="surrogateescape"))
    return Path(text) if Path(text).exists() and not decoded.exists() else decoded


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def touch_file(path: Path) -> None:
    """Record that a file is in use now; a file that cannot be written is left alone."""
    with suppress(OSError):
        os.utime(path)


def format_json(value: Any) -> str:
    """Format as indented JSON in UTF-8, ending in a newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
