"""Files are there whole or not at all."""

import os
import stat
from pathlib import Path

import pytest
from filelock import FileLock

from trialrun.errors import StorageError
from trialrun.files import (
    create_directory,
    hash_file,
    lock_path,
    sweep_unlocked_drafts,
    write_durably,
)


def test_write_replaces_whole_files(tmp_path: Path) -> None:
    """A second write leaves the new bytes and nothing beside them."""
    path = tmp_path / "a.txt"
    write_durably(path, "old")
    write_durably(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    """An error half-way leaves neither the folder nor its draft."""
    with pytest.raises(ZeroDivisionError), create_directory(tmp_path / "out") as draft:
        (draft / "part").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    """A folder with something in it is refused."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(StorageError, match="exists"), create_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_full_device_is_a_storage_error() -> None:
    """No space left is told as such, with a hint."""
    with pytest.raises(StorageError) as raised:
        write_durably(Path("/dev/full/x"), "x")
    assert raised.value.hint


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    """The empty file has the well-known hash."""
    (tmp_path / "empty").touch()
    assert hash_file(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_rights_are_those_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    """Who keeps others from his files keeps them from these."""
    before = os.umask(umask)
    try:
        write_durably(tmp_path / "a.txt", "x")
        with create_directory(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("name", ["n" * 255, "\u732b" * 85])
def test_a_name_as_long_as_a_disk_allows_can_be_written(tmp_path: Path, name: str) -> None:
    """The draft's name is no longer, though it has an ending of its own."""
    write_durably(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    with create_directory(tmp_path / name):
        pass
    assert (tmp_path / name).is_dir()


def test_the_folder_one_is_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`data convert SOURCE .` would leave the shell in a folder that is gone."""
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(StorageError, match="the folder you are in"), create_directory(path):
            pass


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    """And one to an empty folder is followed."""
    (tmp_path / "link").symlink_to("nowhere")
    with (
        pytest.raises(StorageError, match="a link to nowhere"),
        create_directory(tmp_path / "link"),
    ):
        pass
    (tmp_path / "nowhere").mkdir()
    with create_directory(tmp_path / "link") as draft:
        (draft / "x").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "nowhere" / "x").read_text() == "x"


def test_what_fails_inside_is_not_told_as_writing(tmp_path: Path) -> None:
    """A file that cannot be read while a folder is filled is the caller's to explain."""
    with pytest.raises(FileNotFoundError), create_directory(tmp_path / "out"):
        (tmp_path / "gone").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_drafts_that_nobody_writes_are_swept(tmp_path: Path) -> None:
    """Those whose lock is held stay, and their bytes are counted."""
    for name in ("idle", "busy"):
        (tmp_path / f".{name}.123").mkdir()
        (tmp_path / f".{name}.123" / "x").write_bytes(bytes(1000))
    (tmp_path / ".idle.json.456").write_bytes(bytes(10))
    with FileLock(lock_path(tmp_path / "busy")):
        assert sweep_unlocked_drafts(tmp_path) == 1000
        assert [path.name for path in tmp_path.glob(".*")] == [".busy.123"]
    assert sweep_unlocked_drafts(tmp_path) == 0
    assert list(tmp_path.glob(".*")) == []
