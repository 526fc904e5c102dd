"""What fails for a reason that may pass is left out of this run, and of no other."""

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from trialrun.files import remove_directory
from trialrun.image_cache import Pack, entries, open_pack
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, scan_files

STOPPED = """
import time
from trialrun.images.scanning.thread_pool import map_in_order

def make(number):
    print("began", flush=True)
    for _ in range(50):
        time.sleep(0.01)
    return "made"

print(*map_in_order(make, range(2), threads=2, late=lambda _: "late", seconds=1.5), flush=True)
"""


@pytest.fixture
def scan(colors: Path) -> DatasetScan:
    """Three classes of twelve, surveyed."""
    return scan_files(open_data(str(colors), colors), threads=2)


@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_a_folder_that_was_away_is_read_when_it_is_back(
    scan: DatasetScan, colors: Path, tmp_path: Path, limit_bytes: int
) -> None:
    """Neither a pack nor the verdicts of images without one keep that files were gone."""
    notes: list[str] = []

    def reasons() -> set[str]:
        opened = open_pack(
            scan,
            Preprocessing(16),
            tmp_path / "packs",
            threads=2,
            limit_bytes=limit_bytes,
            note=notes.append,
        )
        return set(opened.reasons)

    away = colors.rename(colors.with_name("away"))
    assert reasons() == {"cannot be read: No such file or directory"}
    assert "36 images" in notes[-1]
    assert "may pass" in notes[-1]
    away.rename(colors)
    assert reasons() == {""}
    left = {path.name.partition(".")[2] for path in (tmp_path / "packs").iterdir()}
    assert left <= {"", "lock", "verdicts.json"}


def test_what_is_decoded_beside_passing_failures_serves_the_run(
    scan: DatasetScan, colors: Path, tmp_path: Path
) -> None:
    """The pack that is not kept can be read for as long as the run has it."""
    gone = colors / scan.images.items[0].name
    data = (colors / scan.images.items[1].name).read_bytes()
    gone.unlink()
    pack = open_pack(scan, Preprocessing(16), tmp_path / "packs", threads=2, limit_bytes=10**9)
    assert isinstance(pack, Pack)
    assert pack.usable() == list(range(1, 36))
    assert (pack.pixels(np.asarray([1]))[0] == Preprocessing(16).pixels(data)).all()
    assert entries.list_entries(tmp_path / "packs") == []


def test_a_process_that_was_stopped_is_not_taken_for_a_slow_decoder() -> None:
    """After SIGSTOP for longer than an image may take, and SIGCONT, no image is late."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("began")
    time.sleep(0.1)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=20)[0].splitlines()[-1] == "made made"


def test_a_pack_that_is_deleted_as_soon_as_it_is_there_serves_its_run(
    scan: DatasetScan, tmp_path: Path
) -> None:
    """Another run that needs room may take it at any time; whoever made it has it mapped."""
    packs, is_over = tmp_path / "packs", threading.Event()

    def delete_at_once() -> None:
        while not is_over.is_set():
            with suppress(OSError):
                for path in packs.iterdir():
                    if "." not in path.name:
                        remove_directory(path)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other = threading.Thread(target=delete_at_once)
    other.start()
    try:
        for size in range(8, 24):
            pack = open_pack(scan, Preprocessing(size), packs, threads=1, limit_bytes=10**9)
            assert isinstance(pack, Pack)
            assert pack.pixels(np.arange(36)).shape == (36, 3, size, size)
    finally:
        is_over.set()
        other.join()
        sys.setswitchinterval(before)
