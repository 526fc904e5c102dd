"""How the process of a command begins and ends."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trialrun.cli import process

PROGRAM = """
import atexit, sys, threading, time
from trialrun.cli.process import FastExit

class Told:
    def __del__(self):
        print("taken apart")

departure = FastExit()
atexit.register(print, "handler")
kept = Told()
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.stdout.write("said")
departure.exit_code = 5
sys.exit(5)
"""


def test_garbage_is_collected_as_ever_once_modules_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first collection sets what there is aside and puts Python's own thresholds back."""
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


def test_process_leaves_with_all_said_and_done_but_takes_nothing_apart() -> None:
    """Threads, exit handlers and buffered output come first; objects are left as they are."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ended.returncode == 5
    assert ended.stdout == "saidthread\nhandler\n"


HELP = [sys.executable, "-m", "trialrun", "--help"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_output_onto_a_full_disk_is_told() -> None:
    """Two lines and the exit code of storage."""
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(HELP, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 6
    first, second = ended.stderr.splitlines()
    assert first.startswith("Error: StorageError: cannot write")
    assert second.startswith("Hint: Free some space")


def test_output_that_nobody_reads_ends_the_command_in_silence() -> None:
    """`trialrun … | head` is nobody's fault."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(HELP, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")
