"""The folder of a run: its settings, its checkpoints and the journal of its records.

The folder is created before its MLflow run, which names it in the tag `trialrun.run_folder`. While
a process works on the run it holds a lock in the folder, which the operating system releases when
the process ends for any reason.
"""

import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock, Timeout

from trialrun.errors import StorageError
from trialrun.files import (
    format_json,
    remove_directory,
    translate_storage_errors,
    write_durably,
)

FOLDER_TAG = "trialrun.run_folder"
_ROOT_NAME = "trialrun-runs"
_SQLITE = "sqlite:///"
_OWNER, _SETTINGS, _LOCK = "owner.json", "settings.json", "run.lock"


class RunLockedError(StorageError):
    """Another process works on the run."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run; its sub-folders exist once they are written."""

    path: Path

    @property
    def settings_path(self) -> Path:
        """The file of the settings, which never changes."""
        return self.path / _SETTINGS

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def journal(self) -> Path:
        """The folder of the run's records, with the files that they name."""
        return self.path / "journal"

    @property
    def non_finite(self) -> Path:
        """The folder of the state before the step with a non-finite loss."""
        return self.path / "non_finite"

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run; None until the run exists."""
        return self.read_owner().get("run_id")

    def read_owner(self) -> dict[str, Any]:
        """Return what `write_owner` wrote; empty if there is nothing readable."""
        return _read_object(self.path / _OWNER)

    def write_owner(self, **values: Any) -> None:
        """Store facts about the run and this process; values of the same names are replaced.

        Raises:
            StorageError: The folder cannot be written.
        """
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        write_durably(self.path / _OWNER, format_json({**self.read_owner(), **process, **values}))

    def read_settings(self) -> dict[str, Any]:
        """Return the settings that the run was created with; empty if they cannot be read."""
        return _read_object(self.path / _SETTINGS)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock for the block.

        Raises:
            RunLockedError: Another process works on this run.
        """
        file_lock = FileLock(self.path / _LOCK)
        try:
            file_lock.acquire(timeout=0)
        except Timeout as error:
            owner = self.read_owner()
            raise RunLockedError(
                f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'this machine')} is "
                f"still working on run {owner.get('run_id', self.path.name)}",
                "Wait until it ends, or stop it.",
            ) from error
        try:
            yield
        finally:
            file_lock.release()

    def is_locked(self) -> bool:
        """Whether a process works on this run now."""
        file_lock = FileLock(self.path / _LOCK)
        try:
            with file_lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def delete_checkpoints(self) -> None:
        """Delete the saved states: nothing will continue the run."""
        for path in (self.checkpoints, self.non_finite):
            shutil.rmtree(path, ignore_errors=True)

    def delete(self) -> None:
        """Delete the folder; files that cannot be deleted remain."""
        remove_directory(self.path)


def sweep_deleted(root: Path) -> None:
    """Delete what interrupted deletions of folders have left below `root`."""
    for trash in root.glob(".*.trash-*"):
        shutil.rmtree(trash, ignore_errors=True)


def create_run_folder(root: Path, settings: Mapping[str, Any]) -> RunFolder:
    """Create the folder of a new run below `root`, with its settings as plain values.

    Raises:
        StorageError: The folder cannot be written.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    folder = RunFolder(root / name)
    sweep_deleted(root)
    with translate_storage_errors(folder.path):
        folder.path.mkdir(parents=True)
    write_durably(folder.path / _SETTINGS, format_json(dict(settings)))
    return folder


def list_run_folders(root: Path) -> list[RunFolder]:
    """Return the run folders below `root` that this user may read, the oldest first."""
    if not root.is_dir():
        return []
    paths = sorted(root.glob("[!.]*"))  # not those of an interrupted deletion
    return [RunFolder(path) for path in paths if _is_readable(path / _SETTINGS)]


def _is_readable(path: Path) -> bool:
    """Whether `path` is a file; the temporary folder may hold run folders of other users."""
    try:
        return path.is_file()
    except OSError:
        return False


def find_run_folder(root: Path, run_id: str) -> RunFolder | None:
    """Return the folder below `root` of the run `run_id`, given by its id or the folder's name."""
    folders = list_run_folders(root)
    return next((item for item in folders if run_id in (item.run_id, item.path.name)), None)


def choose_root(checkpoint_dir: str | None, tracking_uri: str) -> Path:
    """Return the parent folder of run folders: `checkpoint_dir`, or one that suits the store.

    That is a folder beside a SQLite file, else one in the user's state folder. If the folder cannot
    be written, the next of these is used, and a temporary folder last.

    Raises:
        StorageError: `checkpoint_dir` cannot be written.
    """
    if checkpoint_dir is not None:
        root = Path(checkpoint_dir).expanduser().absolute()
        with translate_storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        return root
    return next(root for root in list_default_roots(tracking_uri) if _is_writable(root))


def list_default_roots(tracking_uri: str) -> list[Path]:
    """Return the parents of run folders that `choose_root` considers, the preferred one first."""
    roots = []
    if tracking_uri.startswith(_SQLITE):
        database = Path(unquote(tracking_uri.removeprefix(_SQLITE))).absolute()
        roots.append(database.parent / _ROOT_NAME)
    if base := os.environ.get("XDG_STATE_HOME"):
        roots.append(Path(base) / "trialrun" / _ROOT_NAME)
    with suppress(RuntimeError):  # no home folder
        roots.append(Path.home() / ".local" / "state" / "trialrun" / _ROOT_NAME)
    return [*roots, Path(tempfile.gettempdir()) / _ROOT_NAME]


def _is_writable(root: Path) -> bool:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return True
    except OSError:
        return root == Path(tempfile.gettempdir()) / _ROOT_NAME  # its error is reported on use


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
