"""Packs: decoded once, verified, kept within a size limit, written by one process at a time."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import write_classes
from trialrun.image_cache import DecodedImages, Pack, entries, open_pack
from trialrun.image_cache.on_the_fly import OnTheFlyImages
from trialrun.image_cache.perceptual_hash import (
    compute_hashes,
    find_near_duplicates,
    sample_image,
    shrink_to_grays,
)
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, scan_files

SIZE = 16
PACK_BYTES = 36 * (3 * SIZE * SIZE + 128)

OPEN_PACK = """
import sys
from pathlib import Path
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.image_cache import open_pack

scan = scan_files(open_data(sys.argv[1], Path("none")), threads=1)
print("ready", flush=True)
sys.stdin.readline()
progress = lambda number: print("decoding", flush=True)
pack = open_pack(scan, Preprocessing(64), Path(sys.argv[2]), threads=1, limit_bytes=10**9,
                 progress=progress, note=lambda text: print(text, flush=True))
print("decoded", pack.num_decoded, flush=True)
sys.stdin.readline()
"""


def start_process(images: Path, packs: Path) -> "subprocess.Popen[str]":
    """Start a process that opens a pack once it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_PACK, str(images), str(packs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def send_line(process: "subprocess.Popen[str]") -> None:
    """Let a waiting process open its pack."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.fixture
def scan(colors: Path) -> DatasetScan:
    """A scan of three classes of 12 images."""
    return scan_files(open_data(str(colors), colors), threads=2)


@pytest.fixture
def open_images(tmp_path: Path) -> Callable[..., DecodedImages]:
    """A function that opens the pack of a scan below the test's folder."""

    def open_scan(
        scan: DatasetScan, size: int = SIZE, *, limit_bytes: int = 10**9
    ) -> DecodedImages:
        return open_pack(
            scan, Preprocessing(size), tmp_path / "packs", threads=2, limit_bytes=limit_bytes
        )

    return open_scan


def find_only_pack(tmp_path: Path) -> Path:
    """Return the folder of the only pack."""
    (entry,) = entries.list_entries(tmp_path / "packs")
    return entry.folder


def test_a_second_run_decodes_nothing(
    scan: DatasetScan, open_images: Callable[..., DecodedImages]
) -> None:
    """The counter is the number of images, then 0."""
    first, again = open_images(scan), open_images(scan)
    assert (first.num_decoded, again.num_decoded) == (36, 0)
    rows = np.arange(36)
    assert (first.pixels(rows) == again.pixels(rows)).all()


def test_a_pack_equals_the_decoder_s_pixels(
    scan: DatasetScan, open_images: Callable[..., DecodedImages]
) -> None:
    """A row is bit-identical to the preprocessed file."""
    pack = open_images(scan)
    for row in (0, 17, 35):
        data = scan.images.path_of(scan.images.items[row]).read_bytes()
        assert (pack.pixels(np.asarray([row]))[0] == Preprocessing(SIZE).decode(data)).all()


def test_the_same_bytes_under_other_names_are_not_decoded_again(
    scan: DatasetScan, open_images: Callable[..., DecodedImages], colors: Path
) -> None:
    """The key depends on file contents only."""
    open_images(scan)
    moved = colors.rename(colors.with_name("moved"))
    assert open_images(scan_files(open_data(str(moved), moved), threads=2)).num_decoded == 0


def test_an_unchanged_file_is_not_read_again(
    colors: Path, tmp_path: Path, wait_until_stable: Callable[[], None]
) -> None:
    """The scan cache compares size and times; a changed file is scanned again."""
    for path in colors.rglob("*.png"):
        os.utime(path, (1, 1))  # sets the change time to now
    images = open_data(str(colors), tmp_path)
    wait_until_stable()
    first = scan_with_cache(images, tmp_path / "ledgers", threads=2)
    (cache_file,) = (tmp_path / "ledgers").iterdir()
    forged = cache_file.read_text().replace(first.files[0].sha256, "f" * 64)
    cache_file.write_text(forged)
    (colors / images.items[1].name).write_bytes(b"")
    again = scan_with_cache(images, tmp_path / "ledgers", threads=2)
    assert again.files[0].sha256 == "f" * 64  # the file was not read
    assert again.files[1].reason == "empty file"
    assert again.files[2:] == first.files[2:]


def test_a_change_that_restores_size_and_time_is_detected(
    colors: Path,
    open_images: Callable[..., DecodedImages],
    wait_until_stable: Callable[[], None],
) -> None:
    """A file that changed between scanning and decoding is skipped."""
    wait_until_stable()
    scan = scan_files(open_data(str(colors), colors), threads=2)
    assert all(file.fingerprint for file in scan.files)
    path = colors / scan.images.items[0].name
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_images(scan).reasons[0] == "changed while it was being read"


def test_a_damaged_pack_is_written_again(
    scan: DatasetScan, open_images: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """After a flipped bit, a missing byte or a changed result, all images are decoded again."""
    before = open_images(scan).pixels(np.arange(36)).clone()
    damages: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("pixels.npy", lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]),
        ("pixels.npy", lambda data: data[:-1]),
        ("keys.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("records.npy", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
        ("segment.json", lambda data: data.replace(b'"reasons": {}', b'"reasons": {"1": "x"}')),
    ]
    for name, damage in damages:
        path = find_only_pack(tmp_path) / name
        content = path.read_bytes()
        path.unlink()  # mappings of the old file stay valid
        path.write_bytes(damage(content))
        again = open_images(scan)
        assert again.num_decoded == 36
        assert (again.pixels(np.arange(36)) == before).all()


def test_a_pack_of_another_version_is_listed_and_written_again(
    scan: DatasetScan, open_images: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """Its checksum is right but its format is unknown: it is listed as unreadable."""
    open_images(scan)
    path = find_only_pack(tmp_path) / "segment.json"
    content = '{"num_rows": 36, "reasons": {}, "likenesses": "AAAA"}'
    path.write_text(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}\n")
    [listed] = entries.list_summaries(tmp_path / "packs")
    assert (listed.source, listed.num_images) == (entries.UNREADABLE, 0)
    assert listed.num_bytes > 36 * SIZE * SIZE * 3
    assert open_images(scan).num_decoded == 36


def test_the_least_recently_used_pack_is_evicted_first(
    scan: DatasetScan, open_images: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """A pack that was opened again stays, the other one is evicted."""
    limit = int(2.5 * PACK_BYTES)
    open_images(scan, 15, limit_bytes=limit)
    open_images(scan, 14, limit_bytes=limit)
    for entry, used in zip(entries.list_summaries(tmp_path / "packs"), (100, 200), strict=True):
        os.utime(tmp_path / "packs" / entry.key / "segment.json", (used, used))
    open_images(scan, 15, limit_bytes=limit)
    open_images(scan, SIZE, limit_bytes=limit)
    sizes = {row.image_size for row in entries.list_summaries(tmp_path / "packs")}
    assert sizes == {15, SIZE}


def test_a_deleted_pack_stays_readable(
    scan: DatasetScan, open_images: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """The mapping stays valid after the files are deleted."""
    pack = open_images(scan)
    before = pack.pixels(np.arange(36)).clone()
    assert entries.clear_entries(tmp_path / "packs").num_packs == 1
    assert (pack.pixels(np.arange(36)) == before).all()


def test_without_room_images_are_decoded_on_the_fly(scan: DatasetScan, tmp_path: Path) -> None:
    """Under too small a limit, the user is notified, and batches equal those of a pack."""
    notes: list[str] = []

    def open_with_limit(limit_bytes: int) -> DecodedImages:
        return open_pack(
            scan,
            Preprocessing(SIZE),
            tmp_path / "packs",
            threads=2,
            limit_bytes=limit_bytes,
            note=notes.append,
        )

    on_the_fly = open_with_limit(PACK_BYTES - 1)
    assert isinstance(on_the_fly, OnTheFlyImages)
    assert "decoded as they are needed" in notes[0]
    assert on_the_fly.num_decoded == 36
    rows = np.asarray([5, 0, 35])
    pixels = on_the_fly.pixels(rows)
    assert on_the_fly.num_decoded == 39
    assert open_with_limit(PACK_BYTES - 1).num_decoded == 0  # the results are cached
    pack = open_with_limit(PACK_BYTES)
    assert isinstance(pack, Pack)
    assert (pack.pixels(rows) == pixels).all()
    assert pixels.stride() == pack.pixels(rows).stride()


@pytest.mark.slow
def test_the_draft_of_a_killed_writer_is_not_used(tmp_path: Path) -> None:
    """After SIGKILL during writing, the next run writes the pack and deletes the draft."""
    folder = write_classes(tmp_path / "set", {"a": 600, "b": 600})
    killed = start_process(folder, tmp_path / "packs")
    send_line(killed)
    assert killed.stdout is not None
    for _ in range(3):
        assert killed.stdout.readline() == "decoding\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert entries.list_entries(tmp_path / "packs") == []
    assert list((tmp_path / "packs").glob(".*"))
    scan = scan_files(open_data(str(folder), folder), threads=2)
    pack = open_pack(scan, Preprocessing(64), tmp_path / "packs", threads=2, limit_bytes=10**9)
    assert pack.num_decoded == 1200
    assert not list((tmp_path / "packs").glob(".*"))


@pytest.mark.slow
def test_fault_49_two_processes_decode_once(tmp_path: Path) -> None:
    """Of two processes that open the same new pack, one decodes and the other waits."""
    folder = write_classes(tmp_path / "set", {"a": 300, "b": 300})
    processes = [start_process(folder, tmp_path / "packs") for _ in range(2)]
    for process in processes:
        send_line(process)
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert sorted(lines[-1] for lines in outputs) == ["decoded 0", "decoded 600"]


@pytest.mark.slow
def test_segment_in_use_by_another_process_is_not_evicted(colors: Path, tmp_path: Path) -> None:
    """The lease of a killed process is released."""
    process = start_process(colors, tmp_path / "packs")
    send_line(process)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("decoded"):
        pass
    folder = find_only_pack(tmp_path)
    assert not entries.delete_if_idle(folder)
    process.kill()
    process.communicate()
    assert entries.delete_if_idle(folder)


def test_near_duplicates_are_found(tmp_path: Path) -> None:
    """An image saved again as a poor JPEG is a near duplicate; others, and flat ones, are not."""

    def draw_image(seed: int) -> NDArray[np.uint8]:
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))

    path = tmp_path / "again.jpg"
    Image.fromarray(draw_image(1)).save(path, quality=40)
    with Image.open(path) as opened:
        again = np.asarray(opened)
    flat = np.full((96, 96, 3), 7, dtype=np.uint8)
    first = compute_hashes(
        shrink_to_grays(
            [sample_image(draw_image(0)), sample_image(draw_image(1)), sample_image(flat)]
        )
    )
    second = compute_hashes(
        shrink_to_grays([sample_image(draw_image(2)), sample_image(flat), sample_image(again)])
    )
    result = find_near_duplicates(first, second)
    assert (result.pairs, result.num_skipped) == ([(1, 2)], 0)


@pytest.mark.parametrize("damage", [list, lambda rows: {name: [1, 2] for name in rows}, str])
def test_a_damaged_scan_cache_is_ignored(
    colors: Path,
    tmp_path: Path,
    damage: Callable[[dict[str, object]], object],
    wait_until_stable: Callable[[], None],
) -> None:
    """Invalid rows are ignored, and their files are read again."""
    images = open_data(str(colors), tmp_path)
    wait_until_stable()
    first = scan_with_cache(images, tmp_path / "ledgers", threads=2)
    (cache_file,) = (tmp_path / "ledgers").iterdir()
    header, rows = cache_file.read_text().splitlines()
    cache_file.write_text(f"{header}\n{json.dumps(damage(json.loads(rows)))}\n")
    assert scan_with_cache(images, tmp_path / "ledgers", threads=2) == first


def test_the_scan_cache_drops_deleted_files(
    colors: Path, tmp_path: Path, wait_until_stable: Callable[[], None]
) -> None:
    """It keeps the files of another dataset in the same folder."""
    images = open_data(str(colors), tmp_path)
    halves = images.subset(range(18)), images.subset(range(18, 36))
    wait_until_stable()
    scan_with_cache(halves[0], tmp_path / "ledgers", threads=2)
    (colors / halves[0].items[0].name).unlink()
    scan_with_cache(halves[1], tmp_path / "ledgers", threads=2)
    (cache_file,) = (tmp_path / "ledgers").iterdir()
    names = set(json.loads(cache_file.read_text().splitlines()[1]))
    assert names == {item.name for item in images.items[1:]}


def test_packs_being_written_count_towards_the_limit(scan: DatasetScan, tmp_path: Path) -> None:
    """Only one of two large packs is written at once; a dead writer's draft is deleted."""
    notes: list[str] = []
    draft = tmp_path / "packs" / ".otherkey.123"
    draft.mkdir(parents=True)
    (draft / "pixels.npy").write_bytes(bytes(PACK_BYTES))

    def open_with_room_for_one() -> DecodedImages:
        return open_pack(
            scan,
            Preprocessing(SIZE),
            tmp_path / "packs",
            threads=2,
            limit_bytes=int(1.5 * PACK_BYTES),
            note=notes.append,
        )

    with FileLock(tmp_path / "packs" / "otherkey.lock"):
        assert isinstance(open_with_room_for_one(), OnTheFlyImages)
        assert "GB being written" in notes[0]
        assert draft.is_dir()
    assert isinstance(open_with_room_for_one(), Pack)
    assert not draft.exists()
