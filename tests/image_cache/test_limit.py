"""The size limit: what is in use stays, what is idle goes, and what does not fit is not stored."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import write_classes
from trialrun.cache.leases import hold_lease, lock_entry
from trialrun.files import create_directory
from trialrun.image_cache import DecodedImages, Pack, entries, open_pack
from trialrun.image_cache.inventory import (
    enforce_cache_limit,
    list_archives,
    list_evictable_archives,
)
from trialrun.image_cache.on_the_fly import OnTheFlyImages
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.image_cache.segments.files import is_intact, read_segment
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.formats.archives.store import write_contents
from trialrun.images.scanning.scan import DatasetScan, scan_files
from trialrun.runs.datasets.scan import scan_set

SIZE = 16
IMAGE_BYTES = 3 * SIZE * SIZE + 256


def scan_classes(folder: Path, classes: dict[str, int], seed: int = 0) -> DatasetScan:
    """Write and scan a folder of classes."""
    write_classes(folder, classes, seed=seed)
    return scan_files(open_data(str(folder), folder), threads=1)


class Cache:
    """A cache with room for a number of images; it collects the notes."""

    def __init__(self, folder: Path, num_images: int) -> None:
        self.folder = folder
        self.limit_bytes = (num_images + 2) * IMAGE_BYTES
        self.notes: list[str] = []

    def open(self, scan: DatasetScan, size: int = SIZE) -> DecodedImages:
        """Open the decoded images of a scan."""
        opened = open_pack(
            scan,
            Preprocessing(size),
            self.folder,
            threads=1,
            limit_bytes=self.limit_bytes,
            note=self.notes.append,
        )
        assert sum(entry.num_bytes for entry in entries.list_entries(self.folder)) <= (
            self.limit_bytes
        )
        return opened

    def open_together(self, scans: list[DatasetScan]) -> list[DecodedImages]:
        """Open several sets as one run does."""
        return [self.open(scan) for scan in scans]


def test_run_does_not_evict_its_own_images(tmp_path: Path) -> None:
    """The set that does not fit beside the first is decoded live, and later runs decode no more."""
    cache = Cache(tmp_path / "packs", 30)
    scans = [
        scan_classes(tmp_path / "train", {"a": 24}),
        scan_classes(tmp_path / "valid", {"a": 12}, seed=50),
    ]
    decoded = []
    for _ in range(3):
        train, valid = cache.open_together(scans)
        assert isinstance(train, Pack)
        assert isinstance(valid, OnTheFlyImages)
        decoded.append((train.num_decoded, valid.num_decoded))
        rows = np.arange(12)
        valid.pixels(rows)
    assert decoded == [(24, 12), (0, 0), (0, 0)]
    assert "GB in use): images are decoded as they are needed" in cache.notes[0]


def test_images_of_an_earlier_run_are_evicted(tmp_path: Path) -> None:
    """Once no object uses them, they make room for others."""
    cache = Cache(tmp_path / "packs", 30)
    scans = [scan_classes(tmp_path / str(seed), {"a": 20}, seed=50 * seed) for seed in range(2)]
    for scan in scans:
        assert isinstance(cache.open(scan), Pack)
    assert cache.open(scans[1]).num_decoded == 0
    assert cache.open(scans[0]).num_decoded == 20


def test_set_that_outgrew_its_segment_is_stored_anew(tmp_path: Path) -> None:
    """Images that left the set make room for those that joined it."""
    cache = Cache(tmp_path / "packs", 30)
    scan = scan_classes(tmp_path / "set", {"a": 24, "b": 0})
    cache.open(scan)
    for path in sorted((tmp_path / "set" / "a").iterdir())[4:]:
        path.unlink()
    opened = cache.open(scan_classes(tmp_path / "set", {"b": 20}, seed=50))
    assert isinstance(opened, Pack)
    assert len(opened.usable_rows()) == 24
    assert cache.notes == []


def test_folder_of_another_version_is_evicted_first(tmp_path: Path) -> None:
    """It is listed as unreadable, and counts towards the limit."""
    cache = Cache(tmp_path / "packs", 30)
    old = cache.folder / ("0" * 64)
    old.mkdir(parents=True)
    (old / "pixels.npy").write_bytes(bytes(20 * IMAGE_BYTES))
    (old / "pack.json").write_text("{}")
    assert [row.source for row in entries.list_summaries(cache.folder)] == [entries.UNREADABLE]
    assert isinstance(cache.open(scan_classes(tmp_path / "set", {"a": 20})), Pack)
    assert not old.exists()


def damage_segment(folder: Path) -> None:
    """Change a byte in the middle of a segment's pixels, as a failing disk does."""
    path = folder / "pixels.npy"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # mappings of the old file stay valid
    path.write_bytes(content)
    (folder / "synced").touch()


def test_every_part_of_a_segment_is_checked_in_the_course_of_runs(tmp_path: Path) -> None:
    """Of five blocks, each check reads another one; a damaged one is found by some of them."""
    cache = Cache(tmp_path / "packs", 10**6)
    scan = scan_classes(tmp_path / "set", {"a": 36})
    pack = cache.open(scan, 600)
    assert isinstance(pack, Pack)
    [segment] = pack.segments
    damage_segment(segment.folder)
    found = read_segment(segment.folder)
    assert found is not None
    outcomes = {is_intact(found, threads=1, max_bytes=8 << 20) for _ in range(100)}
    assert outcomes == {True, False}
    assert not is_intact(found, threads=1)


def test_damage_that_a_sample_finds_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check under the lock draws other blocks, which must not hide what the first one found."""
    monkeypatch.setattr("trialrun.image_cache.segments.search._CHECKED_BYTES", 8 << 20)
    first_blocks = iter([2, 0])
    cache = Cache(tmp_path / "packs", 10**6)
    scan = scan_classes(tmp_path / "set", {"a": 36})
    pack = cache.open(scan, 600)
    assert isinstance(pack, Pack)
    damage_segment(pack.segments[0].folder)
    monkeypatch.setattr("secrets.randbelow", lambda _limit: next(first_blocks))
    again = cache.open(scan, 600)
    assert again.num_decoded == 36
    assert (again.pixels(np.arange(36)) == pack.pixels(np.arange(36))).all()
    assert "are damaged" in cache.notes[0]


@pytest.mark.parametrize("num_images", [0, 9])
def test_set_larger_than_the_cache_is_not_stored(tmp_path: Path, num_images: int) -> None:
    """Others are not evicted for it in vain."""
    cache = Cache(tmp_path / "packs", num_images)
    small = scan_classes(tmp_path / "small", {"a": 3}, seed=50)
    cache.open(small)
    cache.open(scan_classes(tmp_path / "set", {"a": 24}))
    stored = [
        entry.num_images for entry in entries.list_summaries(cache.folder) if entry.image_size
    ]
    assert stored == ([3] if num_images else [])


def test_set_that_outgrows_the_cache_is_read_from_it_in_part(tmp_path: Path) -> None:
    """Only images that are not stored are decoded live; results of these are kept."""
    cache, folder = Cache(tmp_path / "packs", 14), tmp_path / "set"
    assert cache.open(scan_classes(folder, {"a": 12})).num_decoded == 12
    scan = scan_classes(folder, {"b": 9}, seed=50)
    opened = cache.open(scan)
    assert isinstance(opened, OnTheFlyImages)
    assert opened.num_decoded == 9
    assert opened.pixels(np.arange(12)).shape == (12, 3, SIZE, SIZE)
    assert opened.num_decoded == 9
    rows = np.asarray([20, 0, 13, 11])
    direct = [scan.images.path_of(scan.images.items[row]).read_bytes() for row in rows]
    pixels = torch.stack([Preprocessing(SIZE).decode_with_aspect(data)[0] for data in direct])
    assert torch.equal(opened.pixels(rows), pixels)
    assert opened.num_decoded == 11
    assert cache.open(scan).num_decoded == 0


def test_archive_in_use_counts_towards_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded images of an archive fit beside what is unpacked of it, or are decoded live."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    folder = write_classes(tmp_path / "set", {"a": 20}, size=64)
    archive = shutil.make_archive(str(folder), "zip", folder)
    scan = scan_files(open_data(archive, tmp_path / "cache"), threads=1)
    [unpacked] = list_archives()

    def open_images(limit_bytes: int) -> DecodedImages:
        return open_pack(
            scan,
            Preprocessing(SIZE),
            tmp_path / "cache" / "packs",
            threads=1,
            limit_bytes=limit_bytes,
            other_entries=list_evictable_archives,
        )

    needed = 20 * IMAGE_BYTES
    assert needed < unpacked.contents.num_bytes
    assert isinstance(open_images(unpacked.contents.num_bytes + needed - 1), OnTheFlyImages)
    assert scan.images.root.is_dir()
    assert isinstance(open_images(unpacked.contents.num_bytes + needed + 5000), Pack)


@pytest.mark.parametrize("bytes_beside_pixels", [150, 350, 450, 600, 800])
def test_runs_near_the_limit_do_not_evict_what_the_next_one_needs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until_stable: Callable[[], None],
    bytes_beside_pixels: int,
) -> None:
    """Scans and decode results count too: stored images that just fit without them would leave."""
    limit_bytes = 24 * (3 * SIZE * SIZE + bytes_beside_pixels) + 2000
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIALRUN_CACHE_GB", repr(limit_bytes / 1e9))
    folders = [
        write_classes(tmp_path / "train", {"a": 24}),
        write_classes(tmp_path / "valid", {"a": 12}, seed=50),
    ]
    wait_until_stable()
    num_decoded = []
    for _ in range(3):
        scans = [scan_set(open_data(str(folder), tmp_path / "cache")) for folder in folders]
        opened = [
            open_pack(
                scan,
                Preprocessing(SIZE),
                tmp_path / "cache" / "packs",
                threads=1,
                limit_bytes=limit_bytes,
                other_entries=list_evictable_archives,
            )
            for scan in scans
        ]
        num_decoded.append([images.num_decoded for images in opened if isinstance(images, Pack)])
        del opened
    assert num_decoded[0][0] > 0
    assert num_decoded[1:] == [[0] * len(num_decoded[0])] * 2


def test_scan_in_use_is_not_the_least_recently_used(
    tmp_path: Path, wait_until_stable: Callable[[], None]
) -> None:
    """A look-up that finds nothing new is a use, too."""
    images = open_data(str(write_classes(tmp_path / "set", {"a": 2})), tmp_path)
    wait_until_stable()
    scan_with_cache(images, tmp_path / "ledgers", threads=1)
    [path] = (tmp_path / "ledgers").iterdir()
    os.utime(path, (1, 1))
    scan_with_cache(images, tmp_path / "ledgers", threads=1)
    assert path.stat().st_mtime > 1


def test_what_is_known_of_vanished_paths_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until_stable: Callable[[], None]
) -> None:
    """Scans and hashes of archives leave with the next dataset, also if that one is known."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TRIALRUN_CACHE", str(cache))
    kept = open_data(str(write_classes(tmp_path / "kept", {"a": 2})), cache)
    gone = open_data(str(write_classes(tmp_path / "gone", {"a": 2})), cache)
    archive = Path(shutil.make_archive(str(tmp_path / "gone"), "zip", gone.root))
    wait_until_stable()
    open_data(str(archive), cache)
    for images in (gone, kept):
        scan_set(images)
    shutil.rmtree(gone.root)
    archive.unlink()
    assert [len(list((cache / name).iterdir())) for name in ("ledgers", "digests")] == [2, 1]
    scan_set(kept)
    assert [len(list((cache / name).iterdir())) for name in ("ledgers", "digests")] == [1, 0]


@pytest.mark.parametrize("is_leased", [True, False])
def test_download_counts_and_is_evicted_like_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_leased: bool
) -> None:
    """An idle download leaves; if a process uses it, the idle images beside it do."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TRIALRUN_CACHE", str(cache))
    scan = scan_classes(tmp_path / "set", {"a": 20})
    open_pack(scan, Preprocessing(SIZE), cache / "packs", threads=1, limit_bytes=10**9)
    download = cache / "downloads" / "0123"
    with lock_entry(download):
        with create_directory(download, durable=False) as draft:
            (draft / "set.zip").write_bytes(bytes(10**5))
            write_contents(download, draft, "https://host/set.zip", path="set.zip")
        release = hold_lease(download)
    if not is_leased:
        release()
    os.utime(cache / "downloads" / "0123.json", (1, 1))
    monkeypatch.setenv("TRIALRUN_CACHE_GB", str(1.1e5 / 1e9))
    enforce_cache_limit()
    assert download.is_dir() == is_leased
    assert len(entries.list_entries(cache / "packs")) == (0 if is_leased else 1)
    release()
