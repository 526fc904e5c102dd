"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from trialrun.errors import StorageError
from trialrun.files import new_directory, sha256_of, write_durably


def test_write_replaces_whole_files(tmp_path: Path) -> None:
    """A second write leaves the new bytes and nothing beside them."""
    path = tmp_path / "a.txt"
    write_durably(path, "old")
    write_durably(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    """An error half-way leaves neither the folder nor its draft."""
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "out") as draft:
        (draft / "part").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    """A folder with something in it is refused."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(StorageError, match="exists"), new_directory(tmp_path / "out"):
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
    assert sha256_of(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")
