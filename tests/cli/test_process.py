"""Tests of the start of a command's process, and of its output streams at the end."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialrun.cli import process


def test_first_garbage_collection_freezes_loaded_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It exempts the existing objects from later collections and restores Python's thresholds."""
    usual = gc.get_threshold()
    monkeypatch.setattr(process, "_LOADED_OBJECTS", usual[0] + 20_000)
    process.defer_gc()
    try:
        assert gc.get_threshold()[0] == usual[0] + 20_000
        loaded = [[number] for number in range(usual[0] + 40_000)]
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > len(loaded) // 2
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


HELP = [sys.executable, "-m", "trialrun", "--help"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_to_a_full_disk_is_a_storage_error() -> None:
    """It prints two lines and exits with 6."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(HELP, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 6
    first, second = ended.stderr.splitlines()
    assert first.startswith("Error: StorageError: cannot write")
    assert second.startswith("Hint: Free some space")


def test_closed_pipe_ends_the_command_without_an_error() -> None:
    """`trialrun … | head` prints no error."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(HELP, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")
