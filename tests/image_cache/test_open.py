"""Packs: decoded once, trusted only whole, kept within a limit, made by one process at a time."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
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
PACK_BYTES = 36 * (3 * SIZE * SIZE + 64)

PACKER = """
import sys
from pathlib import Path
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.image_cache import open_pack

surveyed = scan_files(open_data(sys.argv[1], Path("none")), threads=1)
print("ready", flush=True)
sys.stdin.readline()
say = lambda number: print("decoding", flush=True)
pack = open_pack(surveyed, Preprocessing(64), Path(sys.argv[2]), threads=1, limit_bytes=10**9,
                 progress=say, note=lambda text: print(text, flush=True))
print("decoded", pack.num_decoded, flush=True)
"""


def packer(images: Path, packs: Path) -> "subprocess.Popen[str]":
    """A process that is ready to pack and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PACKER, str(images), str(packs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: "subprocess.Popen[str]") -> None:
    """Let a ready process go."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.fixture
def scan(colors: Path) -> DatasetScan:
    """Three classes of twelve, surveyed."""
    return scan_files(open_data(str(colors), colors), threads=2)


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., DecodedImages]:
    """Open a survey's pack in a folder of this test's own."""

    def opened(scan: DatasetScan, size: int = SIZE, *, limit_bytes: int = 10**9) -> DecodedImages:
        return open_pack(
            scan, Preprocessing(size), tmp_path / "packs", threads=2, limit_bytes=limit_bytes
        )

    return opened


def only_pack(tmp_path: Path) -> Path:
    """The one pack there is."""
    (entry,) = entries.list_entries(tmp_path / "packs")
    return entry.folder


def test_a_second_run_decodes_nothing(
    scan: DatasetScan, packed: Callable[..., DecodedImages]
) -> None:
    """The counter says what was decoded: everything, then nothing."""
    first, again = packed(scan), packed(scan)
    assert (first.num_decoded, again.num_decoded) == (36, 0)
    rows = np.arange(36)
    assert (first.pixels(rows) == again.pixels(rows)).all()


def test_a_pack_holds_what_the_decoder_makes(
    scan: DatasetScan, packed: Callable[..., DecodedImages]
) -> None:
    """A row is what scoring would make of the file, bit for bit."""
    pack = packed(scan)
    for row in (0, 17, 35):
        data = scan.images.path_of(scan.images.items[row]).read_bytes()
        assert (pack.pixels(np.asarray([row]))[0] == Preprocessing(SIZE).pixels(data)).all()


def test_the_same_bytes_under_other_names_are_not_decoded_again(
    scan: DatasetScan, packed: Callable[..., DecodedImages], colors: Path
) -> None:
    """The key is made of contents."""
    packed(scan)
    moved = colors.rename(colors.with_name("moved"))
    assert packed(scan_files(open_data(str(moved), moved), threads=2)).num_decoded == 0


def test_an_unchanged_file_is_not_read_again(colors: Path, tmp_path: Path) -> None:
    """The ledger knows files by size and times; one that changed is looked at anew."""
    for path in colors.rglob("*.png"):
        os.utime(path, (1, 1))  # which sets the time of change to now
    images = open_data(str(colors), tmp_path)
    time.sleep(2.1)  # what changed just now is not trusted
    first = scan_with_cache(images, tmp_path / "ledgers", threads=2)
    (ledger,) = (tmp_path / "ledgers").iterdir()
    forged = ledger.read_text().replace(first.files[0].sha256, "f" * 64)
    ledger.write_text(forged)
    (colors / images.items[1].name).write_bytes(b"")
    again = scan_with_cache(images, tmp_path / "ledgers", threads=2)
    assert again.files[0].sha256 == "f" * 64  # so it was not read
    assert again.files[1].reason == "empty file"
    assert again.files[2:] == first.files[2:]


def test_a_change_is_seen_though_size_and_time_are_put_back(
    colors: Path, packed: Callable[..., DecodedImages]
) -> None:
    """A file that was changed between survey and decoding is refused, whatever its date."""
    time.sleep(2.1)  # files that have just been written are known by their hash
    scan = scan_files(open_data(str(colors), colors), threads=2)
    assert all(seen.stamp for seen in scan.files)
    path = colors / scan.images.items[0].name
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert packed(scan).reasons[0] == "changed while it was being read"


def test_a_damaged_pack_is_made_again(
    scan: DatasetScan, packed: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """One flipped bit, a missing byte or a spoilt verdict: decoded again, and right."""
    before = packed(scan).pixels(np.arange(36)).clone()
    spoilt: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("pixels.npy", lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]),
        ("pixels.npy", lambda data: data[:-1]),
        ("pack.json", lambda data: data.replace(b'"reasons": {}', b'"reasons": {"1": "x"}')),
    ]
    for name, spoil in spoilt:
        path = only_pack(tmp_path) / name
        content = path.read_bytes()
        path.unlink()  # a mapping of the old file stays as it is
        path.write_bytes(spoil(content))
        again = packed(scan)
        assert again.num_decoded == 36
        assert (again.pixels(np.arange(36)) == before).all()


def test_a_pack_of_another_version_is_listed_and_made_again(
    scan: DatasetScan, packed: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """Whole by its checksum, but written otherwise: `data pack --list` says so and goes on."""
    packed(scan)
    path = only_pack(tmp_path) / "pack.json"
    content = '{"num_images": 36, "reasons": {}, "likenesses": "AAAA"}'
    path.write_text(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}\n")
    [listed] = entries.list_summaries(tmp_path / "packs")
    assert (listed.source, listed.num_images) == (entries.UNREADABLE, 0)
    assert listed.num_bytes > 36 * SIZE * SIZE * 3
    assert packed(scan).num_decoded == 36


def test_the_least_recently_used_pack_leaves_first(
    scan: DatasetScan, packed: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """A pack that was opened again stays, the one before it goes."""
    limit = int(2.5 * PACK_BYTES)
    packed(scan, 15, limit_bytes=limit)
    packed(scan, 14, limit_bytes=limit)
    for entry, used in zip(entries.list_summaries(tmp_path / "packs"), (100, 200), strict=True):
        os.utime(tmp_path / "packs" / entry.key / "pack.json", (used, used))
    packed(scan, 15, limit_bytes=limit)
    packed(scan, SIZE, limit_bytes=limit)
    sizes = {row.image_size for row in entries.list_summaries(tmp_path / "packs")}
    assert sizes == {15, SIZE}


def test_a_pack_that_is_pushed_out_stays_readable(
    scan: DatasetScan, packed: Callable[..., DecodedImages], tmp_path: Path
) -> None:
    """Who has it mapped does not notice."""
    pack = packed(scan)
    before = pack.pixels(np.arange(36)).clone()
    assert entries.clear_entries(tmp_path / "packs").num_packs == 1
    assert (pack.pixels(np.arange(36)) == before).all()


def test_what_does_not_fit_is_decoded_as_it_is_needed(scan: DatasetScan, tmp_path: Path) -> None:
    """Under too small a limit images are decoded for each batch, alike, and the run says so."""
    notes: list[str] = []

    def opened(limit_bytes: int) -> DecodedImages:
        return open_pack(
            scan,
            Preprocessing(SIZE),
            tmp_path / "packs",
            threads=2,
            limit_bytes=limit_bytes,
            note=notes.append,
        )

    live = opened(PACK_BYTES - 1)
    assert isinstance(live, OnTheFlyImages)
    assert "decoded as they are needed" in notes[0]
    assert live.num_decoded == 36
    rows = np.asarray([5, 0, 35])
    pixels = live.pixels(rows)
    assert live.num_decoded == 39
    assert opened(PACK_BYTES - 1).num_decoded == 0  # the verdicts are kept
    pack = opened(PACK_BYTES)
    assert isinstance(pack, Pack)
    assert (pack.pixels(rows) == pixels).all()
    assert pixels.stride() == pack.pixels(rows).stride()


def test_a_killed_writer_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    """After SIGKILL in the middle, the next run makes the pack and sweeps the draft away."""
    folder = write_classes(tmp_path / "set", {"a": 600, "b": 600})
    killed = packer(folder, tmp_path / "packs")
    begin(killed)
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


def test_fault_49_two_processes_do_the_work_once(tmp_path: Path) -> None:
    """Of two that pack the same at once, one decodes and the other waits for it."""
    folder = write_classes(tmp_path / "set", {"a": 300, "b": 300})
    processes = [packer(folder, tmp_path / "packs") for _ in range(2)]
    for process in processes:
        begin(process)
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert sorted(lines[-1] for lines in said) == ["decoded 0", "decoded 600"]


def test_pictures_that_look_alike_are_found(tmp_path: Path) -> None:
    """One saved again as a poor JPEG is near its original; others, and flat ones, are not."""

    def shapes(seed: int) -> NDArray[np.uint8]:
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))

    path = tmp_path / "again.jpg"
    Image.fromarray(shapes(1)).save(path, quality=40)
    with Image.open(path) as opened:
        again = np.asarray(opened)
    flat = np.full((96, 96, 3), 7, dtype=np.uint8)
    first = compute_hashes(
        shrink_to_grays([sample_image(shapes(0)), sample_image(shapes(1)), sample_image(flat)])
    )
    second = compute_hashes(
        shrink_to_grays([sample_image(shapes(2)), sample_image(flat), sample_image(again)])
    )
    found = find_near_duplicates(first, second)
    assert (found.pairs, found.num_skipped) == ([(1, 2)], 0)


@pytest.mark.parametrize("spoil", [list, lambda rows: {name: [1, 2] for name in rows}, str])
def test_a_damaged_ledger_is_none(
    colors: Path, tmp_path: Path, spoil: Callable[[dict[str, object]], object]
) -> None:
    """Rows that are no rows are passed over, and files read again."""
    images = open_data(str(colors), tmp_path)
    time.sleep(2.1)  # what changed just now is not trusted
    first = scan_with_cache(images, tmp_path / "ledgers", threads=2)
    (ledger,) = (tmp_path / "ledgers").iterdir()
    content = json.loads(ledger.read_text())
    ledger.write_text(json.dumps(content | {"rows": spoil(content["rows"])}))
    assert scan_with_cache(images, tmp_path / "ledgers", threads=2) == first


def test_the_ledger_forgets_files_that_are_gone(colors: Path, tmp_path: Path) -> None:
    """But not those of another set in the same folder."""
    images = open_data(str(colors), tmp_path)
    halves = images.subset(range(18)), images.subset(range(18, 36))
    time.sleep(2.1)  # what changed just now is not trusted
    scan_with_cache(halves[0], tmp_path / "ledgers", threads=2)
    (colors / halves[0].items[0].name).unlink()
    scan_with_cache(halves[1], tmp_path / "ledgers", threads=2)
    (ledger,) = (tmp_path / "ledgers").iterdir()
    kept = set(json.loads(ledger.read_text())["rows"])
    assert kept == {item.name for item in images.items[1:]}


def test_what_is_being_written_counts(scan: DatasetScan, tmp_path: Path) -> None:
    """Two packs that fit alone but not together are not written at once; of a dead writer's draft
    nothing stays.
    """
    notes: list[str] = []
    draft = tmp_path / "packs" / ".otherkey.123"
    draft.mkdir(parents=True)
    (draft / "pixels.npy").write_bytes(bytes(PACK_BYTES))

    def opened() -> DecodedImages:
        return open_pack(
            scan,
            Preprocessing(SIZE),
            tmp_path / "packs",
            threads=2,
            limit_bytes=int(1.5 * PACK_BYTES),
            note=notes.append,
        )

    with FileLock(tmp_path / "packs" / "otherkey.lock"):
        assert isinstance(opened(), OnTheFlyImages)
        assert "GB being written" in notes[0]
        assert draft.is_dir()
    assert isinstance(opened(), Pack)
    assert not draft.exists()
