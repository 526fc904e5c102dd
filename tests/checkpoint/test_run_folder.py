"""Tests of run folders: their place, their owner and their lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialrun.checkpoint.run_folder import (
    RunFolder,
    choose_root,
    create_run_folder,
    find_run_folder,
    list_default_roots,
    list_run_folders,
)
from trialrun.errors import StorageError


def test_folder_is_found_by_the_id_of_its_run(tmp_path: Path) -> None:
    """Both the run's id and the folder's name find it."""
    folder = create_run_folder(tmp_path, {"epochs": "3"})
    create_run_folder(tmp_path, {})
    folder.write_owner(run_id="abc")
    assert find_run_folder(tmp_path, "abc") == folder
    assert find_run_folder(tmp_path, folder.path.name) == folder
    assert find_run_folder(tmp_path, "other") is None
    assert folder.read_settings() == {"epochs": "3"}


def test_owner_keeps_earlier_facts(tmp_path: Path) -> None:
    """A second call adds to what is stored and names this process."""
    folder = create_run_folder(tmp_path, {})
    folder.write_owner(run_id="abc")
    folder.write_owner(name="x")
    owner = folder.read_owner()
    assert (owner["run_id"], owner["name"], owner["pid"]) == ("abc", "x", os.getpid())


HOLD = """
import sys
from pathlib import Path
from trialrun.checkpoint.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    """A second process cannot work on the run until the first one ends, even by SIGKILL."""
    folder = create_run_folder(tmp_path, {})
    folder.write_owner(run_id="abc")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert folder.is_locked()
        with pytest.raises(StorageError, match="still working on run abc"), folder.lock():
            pass
        process.kill()
    assert not folder.is_locked()
    with folder.lock():
        pass


def test_default_is_beside_a_sqlite_store(tmp_path: Path) -> None:
    """A local database has the folder beside it; a server has it in the user's state folder."""
    assert choose_root(None, f"sqlite:///{tmp_path}/mlflow.db") == tmp_path / "trialrun-runs"
    roots = list_default_roots("http://127.0.0.1:5000")
    assert all(tmp_path not in root.parents for root in roots)


def test_unwritable_place_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder beside the store cannot be created, the user's state folder is used."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    root = choose_root(None, f"sqlite:///{tmp_path}/file/mlflow.db")
    assert root == tmp_path / "state" / "trialrun" / "trialrun-runs"


def test_given_place_must_be_writable(tmp_path: Path) -> None:
    """A folder that the user names is not replaced by another one."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        choose_root(str(tmp_path / "file" / "folder"), "sqlite:///mlflow.db")


def test_missing_folder_reads_as_empty(tmp_path: Path) -> None:
    """A run whose folder was deleted has no settings and no owner."""
    folder = RunFolder(tmp_path / "gone")
    assert folder.read_settings() == {}
    assert folder.run_id is None


def test_deletion_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    """A folder is renamed before its files are deleted: it is no run folder any more."""
    folder = create_run_folder(tmp_path, {})
    folder.path.rename(tmp_path / f".{folder.path.name}.trash-01")
    assert list_run_folders(tmp_path) == []
    new = create_run_folder(tmp_path, {})
    assert list(tmp_path.iterdir()) == [new.path]


def test_address_with_percent_signs_is_decoded() -> None:
    """MLflow writes the space of a folder as %20 in its default address."""
    roots = list_default_roots("sqlite:////a%20folder/mlflow.db")
    assert roots[0] == Path("/a folder/trialrun-runs")


def test_folders_of_other_users_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary folder may hold some that this user may not enter."""
    own, other = create_run_folder(tmp_path, {}), create_run_folder(tmp_path, {})
    is_file = Path.is_file

    def refuse(path: Path) -> bool:
        if path.parent == other.path:
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert list_run_folders(tmp_path) == [own]
