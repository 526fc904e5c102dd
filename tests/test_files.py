"""Atomic writing of files and folders."""

import os
import stat
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from trialrun.errors import StorageError
from trialrun.files import (
    create_directory,
    hash_file,
    lock_path,
    measure_bytes,
    sweep_unlocked_drafts,
    write_durably,
)


def test_write_replaces_a_file(tmp_path: Path) -> None:
    """A second write leaves the new content and no draft."""
    path = tmp_path / "a.txt"
    write_durably(path, "old")
    write_durably(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    """After an error neither the folder nor its draft remains."""
    with pytest.raises(ZeroDivisionError), create_directory(tmp_path / "out") as draft:
        (draft / "part").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    """A folder that is not empty is rejected and unchanged."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "existing").write_text("keep")
    with pytest.raises(StorageError, match="exists"), create_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "existing").read_text() == "keep"


def test_full_device_is_a_storage_error() -> None:
    """A full disk raises StorageError with a hint."""
    with pytest.raises(StorageError) as raised:
        write_durably(Path("/dev/full/x"), "x")
    assert raised.value.hint


def test_hash_file_is_sha256_of_the_content(tmp_path: Path) -> None:
    """An empty file has the known sha256."""
    (tmp_path / "empty").touch()
    assert hash_file(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """Written files and folders have the permissions that the umask allows."""
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
def test_longest_allowed_name_can_be_written(tmp_path: Path, name: str) -> None:
    """The draft's name stays within the length limit despite its suffix."""
    write_durably(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    with create_directory(tmp_path / name):
        pass
    assert (tmp_path / name).is_dir()


def test_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data convert SOURCE .` would leave the shell in a deleted folder."""
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(StorageError, match="the current folder"), create_directory(path):
            pass


def test_broken_link_is_rejected(tmp_path: Path) -> None:
    """A link to an empty folder is followed."""
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


def test_errors_of_the_caller_are_not_translated(tmp_path: Path) -> None:
    """An error of the block that fills a folder is raised unchanged."""
    with pytest.raises(FileNotFoundError), create_directory(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_drafts_that_vanish_have_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process completes a draft, which renames it, while its size is being read."""
    draft = tmp_path / ".busy.123"
    draft.mkdir()
    (draft / "x").write_bytes(bytes(1000))

    def refuse(*_: object, **__: object) -> None:
        draft.rename(tmp_path / "busy")
        raise Timeout("busy.lock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert sweep_unlocked_drafts(tmp_path) == 0
    assert measure_bytes(tmp_path / "busy") == 1000


def test_unlocked_drafts_are_deleted(tmp_path: Path) -> None:
    """Drafts of locked targets remain, and their bytes are counted."""
    for name in ("idle", "busy"):
        (tmp_path / f".{name}.123").mkdir()
        (tmp_path / f".{name}.123" / "x").write_bytes(bytes(1000))
    (tmp_path / ".idle.json.456").write_bytes(bytes(10))
    with FileLock(lock_path(tmp_path / "busy")):
        assert sweep_unlocked_drafts(tmp_path) == 1000
        assert [path.name for path in tmp_path.glob(".*")] == [".busy.123"]
    assert sweep_unlocked_drafts(tmp_path) == 0
    assert list(tmp_path.glob(".*")) == []
