"""Images that fail for a transient reason are skipped in this run only."""

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
from trialrun.image_cache import Pack, open_pack
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, scan_files

MAP_SLOWLY = """
import time
from trialrun.images.scanning.thread_pool import map_in_order

def work(number):
    print("started", flush=True)
    for _ in range(50):
        time.sleep(0.01)
    return "done"

results = map_in_order(
    work, range(2), threads=2, on_timeout=lambda _: "late", timeout_seconds=1.5
)
print(*results, flush=True)
"""


@pytest.fixture
def scan(colors: Path) -> DatasetScan:
    """A scan of three classes of 12 images."""
    return scan_files(open_data(str(colors), colors), threads=2)


@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_a_folder_that_was_missing_is_read_in_the_next_run(
    scan: DatasetScan, colors: Path, tmp_path: Path, limit_bytes: int
) -> None:
    """Neither a segment nor the cached results without one record missing files."""
    notes: list[str] = []

    def find_reasons() -> set[str]:
        images = open_pack(
            scan,
            Preprocessing(16),
            tmp_path / "packs",
            threads=2,
            limit_bytes=limit_bytes,
            note=notes.append,
        )
        return set(images.reasons)

    moved = colors.rename(colors.with_name("away"))
    assert find_reasons() == {"cannot be read: No such file or directory"}
    assert "36 images" in notes[-1]
    assert "may pass" in notes[-1]
    moved.rename(colors)
    assert find_reasons() == {""}
    left = {path.name.partition(".")[2] for path in (tmp_path / "packs").iterdir()}
    assert left <= {"", "lock", "users"}


def test_images_decoded_beside_transient_failures_serve_the_run(
    scan: DatasetScan, colors: Path, tmp_path: Path
) -> None:
    """They are stored, and the next run decodes only the image that failed."""
    missing = colors / scan.images.items[0].name
    data = (colors / scan.images.items[1].name).read_bytes()
    content = missing.read_bytes()
    missing.unlink()
    pack = open_pack(scan, Preprocessing(16), tmp_path / "packs", threads=2, limit_bytes=10**9)
    assert isinstance(pack, Pack)
    assert pack.usable_rows() == list(range(1, 36))
    assert (pack.pixels(np.asarray([1]))[0] == Preprocessing(16).decode(data)).all()
    missing.write_bytes(content)
    again = open_pack(scan, Preprocessing(16), tmp_path / "packs", threads=2, limit_bytes=10**9)
    assert (again.num_decoded, set(again.reasons)) == (1, {""})


@pytest.mark.slow
def test_a_stopped_process_does_not_time_out() -> None:
    """After SIGSTOP for longer than an image may take, and SIGCONT, no image times out."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAP_SLOWLY], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("started")
    time.sleep(0.1)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=20)[0].splitlines()[-1] == "done done"


def test_a_pack_deleted_right_after_writing_serves_its_run(
    scan: DatasetScan, tmp_path: Path
) -> None:
    """Another run may evict it at any time; the process that wrote it has it mapped."""
    packs, is_over = tmp_path / "packs", threading.Event()

    def delete_at_once() -> None:
        while not is_over.is_set():
            with suppress(OSError):
                for path in packs.iterdir():
                    if "." not in path.name:
                        remove_directory(path)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    deleter = threading.Thread(target=delete_at_once)
    deleter.start()
    try:
        for size in range(8, 24):
            pack = open_pack(scan, Preprocessing(size), packs, threads=1, limit_bytes=10**9)
            assert isinstance(pack, Pack)
            assert pack.pixels(np.arange(36)).shape == (36, 3, size, size)
    finally:
        is_over.set()
        deleter.join()
        sys.setswitchinterval(before)
