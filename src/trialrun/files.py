"""Files that are there whole or not at all, and what their bytes are.

A writer never touches the name it is to have: it writes beside it, syncs, and renames. What fails
for want of space or permission becomes a `StorageError` here.
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

from filelock import FileLock, Timeout

from trialrun.errors import StorageError

_LOCK_SUFFIX = ".lock"

_READ_BYTES = 1 << 20
_MANY_FILES = 100
_DRAFT_NAME_BYTES = 200  # of the 255 that a name may have, so that a draft's own ending fits


@contextmanager
def translate_storage_errors(path: Path) -> Iterator[None]:
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
        errno.EBUSY: "A disk may be mounted there: name a folder in it.",
    }.get(error.errno or 0, "Look at the folder's disk and permissions.")
    return StorageError(f"{doing}: {error.strerror or error}", remedy)


def write_durably(path: Path, content: bytes | str) -> None:
    """Put `content` at `path`, which afterwards holds the old bytes or the new ones, never a part.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    _write_file(path, content, is_durable=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """As `write_durably` as long as the power stays on: for what is checked when it is read.

    Syncing a small file may take as long as the disk has large ones to write.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    _write_file(path, content, is_durable=False)


def _write_file(path: Path, content: bytes | str, *, is_durable: bool) -> None:
    data = content.encode() if isinstance(content, str) else content
    with translate_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_path(path)
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
            _sync_folder(path.parent)


def _draft_path(path: Path) -> Path:
    """A name beside `path` that is not taken, and no longer than a disk allows.

    What is made under it has the rights that the user's umask leaves; those of `tempfile` would
    have to be widened again, to what nobody could know.
    """
    start = os.fsencode(path.name)[:_DRAFT_NAME_BYTES].decode("utf-8", "ignore")
    return path.with_name(f".{start}.{secrets.token_hex(6)}")


@contextmanager
def create_directory(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A folder to fill, which bears its name only once it is whole.

    Yields an empty folder beside `path`; on leaving, its files are synced and it is renamed. After
    an error nothing is left. What is not `durable` is not synced: for files that carry checksums.

    Raises:
        StorageError: `path` exists and is not an empty folder, or cannot be written.
    """
    with translate_storage_errors(path):
        place = _resolve_target(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_path(place)
        draft.mkdir()
    try:
        yield draft
        with translate_storage_errors(path):
            if durable:
                _sync_all([file for file in draft.rglob("*") if file.is_file()])
                _sync_folder(draft)
            draft.replace(place)
            if durable:
                _sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _resolve_target(path: Path) -> Path:
    """Where a folder can be put that is to be called `path`: behind links, if there are any.

    Raises:
        StorageError: Something is there already, or a folder that cannot be replaced.
    """
    if path.is_symlink() and not path.exists():
        raise StorageError(
            f"{path} is a link to {path.readlink()}, where nothing is",
            "Make that folder, or remove the link.",
        )
    if path.exists():
        if not path.is_dir() or any(path.iterdir()):
            raise StorageError(f"{path} exists already", "Choose a folder that is not there yet.")
        if path.samefile(Path.cwd()):
            raise StorageError(
                f"{path} is the folder you are in, which cannot be replaced by a new one",
                "Name a folder in it.",
            )
    return path.resolve()


def remove_directory(folder: Path) -> bool:
    """Delete a folder so that nobody finds half of it; False where it may not be deleted."""
    trash = folder.with_name(f".{folder.name}.trash-{secrets.token_hex(6)}")
    try:
        folder.rename(trash)
    except FileNotFoundError:  # another process was faster
        return True
    except OSError:
        return False
    shutil.rmtree(trash, ignore_errors=True)
    return True


def sweep_drafts(place: Path) -> None:
    """Delete what killed processes left of drafts and trash of `place`; its lock must be held."""
    for draft in place.parent.glob(f".{place.name}.*"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def sweep_unlocked_drafts(folder: Path) -> int:
    """Sweep the drafts of every place below `folder` whose lock is free; the bytes of the others.

    For folders of places that have no dot in their names.
    """
    drafts: dict[Path, list[Path]] = defaultdict(list)
    for draft in folder.glob(".*.*"):
        drafts[folder / draft.name[1:].partition(".")[0]].append(draft)
    num_bytes = 0
    for place, left in drafts.items():
        try:
            with FileLock(lock_path(place)).acquire(timeout=0):
                sweep_drafts(place)
        except (Timeout, OSError):
            num_bytes += sum(map(_measure_bytes, left))
    return num_bytes


def lock_path(place: Path) -> Path:
    """The file whose lock is held by who makes or deletes what is at `place`."""
    return place.with_name(place.name + _LOCK_SUFFIX)


def _measure_bytes(folder: Path) -> int:
    """The bytes of the files below a folder, be they on the disk yet or not; 0 where it is gone."""
    num_bytes = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            num_bytes += path.stat().st_size if path.is_file() else 0
    return num_bytes


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty folder for as long as the block lasts, where the system keeps what is temporary.

    What cannot be removed afterwards is left there: threads of a download that failed may still
    be writing, and what is to be told is why it failed.

    Raises:
        StorageError: No folder for temporary files can be written to.
    """
    with translate_storage_errors(Path("a temporary folder")):
        scratch = tempfile.TemporaryDirectory(prefix="trialrun-", ignore_cleanup_errors=True)
    with scratch as name:
        yield Path(name)


def _sync_all(files: list[Path]) -> None:
    """Sync each file; where they are many, everything at once, as each sync costs milliseconds."""
    if len(files) > _MANY_FILES:
        os.sync()
        return
    for file in files:
        _sync_file(file)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    _sync_file(folder)


def hash_file(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def format_json(value: Any) -> str:
    """JSON for people and diffs: indented, in any script, ending in a newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
