"""Tests of the memory of weights that the trials of a search share."""

from pathlib import Path

import pytest

from trialrun.files import hash_file
from trialrun.images.decoding import file_io
from trialrun.models.weights import serialization
from trialrun.models.weights.serialization import StateMemory, hash_state_file, remember_state


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Collect the files whose contents are hashed."""
    paths: list[Path] = []

    def hash_and_collect(path: Path) -> str:
        paths.append(path)
        return hash_file(path)

    monkeypatch.setattr(serialization, "hash_file", hash_and_collect)
    return paths


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of weights; its content does not matter here."""
    path = tmp_path / "weights.pth"
    path.write_bytes(b"first")
    return path


def hash_in_block(memory: StateMemory, path: Path) -> str:
    """Hash a file twice in one block."""
    with remember_state(memory):
        digest = hash_state_file(path)
        assert hash_state_file(path) == digest
    return digest


def test_an_unchanged_file_is_hashed_once(
    file: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the trials that follow; a file that changed is hashed again."""
    monkeypatch.setattr(file_io, "_STABLE_SECONDS", -1.0)  # as if the file were older
    memory = StateMemory()
    first = hash_in_block(memory, file)
    assert hash_in_block(memory, file) == first
    assert hashed == [file]
    file.write_bytes(b"other")
    assert hash_in_block(memory, file) == hash_file(file) != first
    assert hashed == [file, file]


def test_a_file_that_has_just_been_written_is_hashed_again(file: Path, hashed: list[Path]) -> None:
    """A further change within the same two seconds might leave its times as they are."""
    memory = StateMemory()
    assert hash_in_block(memory, file) == hash_in_block(memory, file)
    assert hashed == [file, file]


def test_a_deleted_file_is_forgotten(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next block reports that it cannot be read."""
    monkeypatch.setattr(file_io, "_STABLE_SECONDS", -1.0)
    memory = StateMemory()
    hash_in_block(memory, file)
    file.unlink()
    with remember_state(memory), pytest.raises(FileNotFoundError):
        hash_state_file(file)
