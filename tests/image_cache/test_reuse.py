"""Decoded images are found by the contents of their files, whatever set they belong to."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from trialrun.image_cache import DecodedImages, Pack, entries, open_live, open_pack
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, scan_files

SIZE = 16
NUM_POOL = 12  # images in the pool of the property test, of which the last cannot be decoded

ROOM_FOR_RESULTS = 20_000  # bytes: of 39 images, but for the pixels of 19 only


def scan_folder(folder: Path) -> DatasetScan:
    """Scan a folder of classes."""
    return scan_files(open_data(str(folder), folder), threads=1)


def open_in(packs: Path, scan: DatasetScan, *, limit_bytes: int = 10**9) -> DecodedImages:
    """Open the decoded images of a scan in the cache `packs`."""
    return open_pack(scan, Preprocessing(SIZE), packs, threads=1, limit_bytes=limit_bytes)


def assert_equal_to_files(scan: DatasetScan, opened: DecodedImages) -> None:
    """Compare all usable images, in reverse order, with their files decoded directly."""
    rows = opened.usable_rows()[::-1]
    files = [scan.images.path_of(scan.images.items[row]).read_bytes() for row in rows]
    direct = [Preprocessing(SIZE).decode_with_aspect(data) for data in files]
    pixels = opened.pixels(np.asarray(rows, dtype=np.int64))
    assert torch.equal(pixels, torch.stack([image for image, _ in direct]))
    assert opened.aspects[rows] == pytest.approx([aspect for _, aspect in direct])


def rename_class(folder: Path) -> None:
    """Give a class another name."""
    (folder / "red").rename(folder / "crimson")


def merge_classes(folder: Path) -> None:
    """Move all images of a class into another one."""
    for path in (folder / "red").iterdir():
        path.rename(folder / "blue" / f"red-{path.name}")
    (folder / "red").rmdir()


def remove_images(folder: Path) -> None:
    """Delete some images."""
    for path in sorted(folder.rglob("*.png"))[::5]:
        path.unlink()


def copy_images(folder: Path) -> None:
    """Add copies of images that are in the set."""
    shutil.copytree(folder / "red", folder / "copies")


def add_images(folder: Path) -> None:
    """Add three images that are new."""
    write_classes(folder, {"a": 2, "b": 1}, seed=99)


@pytest.mark.parametrize(
    ("change", "num_decoded"),
    [(rename_class, 0), (merge_classes, 0), (remove_images, 0), (copy_images, 0), (add_images, 3)],
)
@pytest.mark.parametrize("limit_bytes", [10**9, ROOM_FOR_RESULTS])
def test_changed_set_decodes_only_new_contents(
    colors: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    num_decoded: int,
    limit_bytes: int,
) -> None:
    """Labels, names, and which images are together play no role, for results without pixels too."""
    open_in(tmp_path / "packs", scan_folder(colors), limit_bytes=limit_bytes)
    change(colors)
    scan = scan_folder(colors)
    opened = open_in(tmp_path / "packs", scan, limit_bytes=limit_bytes)
    assert opened.num_decoded == num_decoded
    assert isinstance(opened, Pack) == (limit_bytes != ROOM_FOR_RESULTS)
    assert_equal_to_files(scan, opened)


def test_other_split_decodes_nothing(colors: Path, tmp_path: Path) -> None:
    """Images that move between training and validation set are found."""
    scan = scan_folder(colors)

    def open_part(rows: Sequence[int]) -> DecodedImages:
        files = tuple(scan.files[row] for row in rows)
        return open_in(tmp_path / "packs", DatasetScan(scan.images.subset(rows), files))

    opened = [open_part(rows) for rows in (range(24), range(24, 36), range(0, 36, 2), range(36))]
    assert [part.num_decoded for part in opened] == [24, 12, 0, 0]
    assert_equal_to_files(scan, opened[-1])


def test_same_contents_are_decoded_and_stored_once(colors: Path, tmp_path: Path) -> None:
    """Copies in one set share their pixels."""
    copy_images(colors)
    opened = open_in(tmp_path / "packs", scan_folder(colors))
    assert (opened.num_decoded, len(opened.usable_rows())) == (36, 48)
    [stored] = entries.list_summaries(tmp_path / "packs")
    assert stored.num_images == 36


@pytest.mark.parametrize("has_pixels", [True, False])
def test_sets_that_grow_have_few_segments(tmp_path: Path, has_pixels: bool) -> None:
    """The smallest are joined; no image is decoded twice, also not those only earlier sets have."""
    packs, folder = tmp_path / "packs", tmp_path / "set"

    def open_set() -> DecodedImages:
        open_images = open_pack if has_pixels else open_live
        scan = scan_folder(folder)
        return open_images(scan, Preprocessing(SIZE), packs, threads=1, limit_bytes=10**9)

    num_decoded, num_segments = 0, []
    for number in range(13):
        write_classes(folder, {f"class{number}": 2}, seed=10 * number)
        num_decoded += open_set().num_decoded
        num_segments.append(len(entries.list_entries(packs)))
    assert num_decoded == 26
    assert max(num_segments) <= 8
    assert_equal_to_files(scan_folder(folder), open_set())
    shutil.rmtree(folder / "class0")
    assert open_set().num_decoded == 0


def test_damaged_segment_is_not_joined(tmp_path: Path) -> None:
    """Its images are decoded again, and the others are not."""
    packs, folder = tmp_path / "packs", tmp_path / "set"
    for number in range(8):
        write_classes(folder, {f"class{number}": 2}, seed=10 * number)
        open_in(packs, scan_folder(folder))
    damaged = entries.list_entries(packs)[3].folder
    content = (damaged / "pixels.npy").read_bytes()
    (damaged / "pixels.npy").unlink()
    (damaged / "pixels.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    write_classes(folder, {"class8": 2}, seed=80)
    scan = scan_folder(folder)
    opened = open_in(packs, scan)
    assert opened.num_decoded == 4
    assert_equal_to_files(scan, opened)


def scan_pool(folder: Path) -> DatasetScan:
    """Write and scan a pool of images, of which the last is cut off."""
    write_classes(folder, {"a": NUM_POOL})
    broken = folder / "a" / f"{NUM_POOL - 1:03}.png"
    broken.write_bytes(broken.read_bytes()[:-900])
    return scan_folder(folder)


@settings(max_examples=12, deadline=None)
@given(
    sets=st.lists(
        st.lists(st.integers(0, NUM_POOL - 1), min_size=1, max_size=NUM_POOL),
        min_size=1,
        max_size=12,
    ),
    keeps=st.booleans(),
    limit_images=st.sampled_from([2, 8, 1000]),
)
def test_any_sequence_of_sets_has_the_pixels_of_the_files(
    sets: list[list[int]], keeps: bool, limit_images: int
) -> None:
    """With room, no content is decoded twice; without, sets in use (`keeps`) stay as they are."""
    limit = limit_images * (3 * SIZE * SIZE + 256) + 2000
    kept: list[tuple[DatasetScan, DecodedImages]] = []
    seen, num_decoded = set[int](), 0
    # Threads that sync segments to the disk may still write into it when it is deleted.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        scan = scan_pool(Path(scratch) / "pool")
        for rows in sets:
            part = replace(
                scan,
                images=scan.images.subset(rows),
                files=tuple(scan.files[row] for row in rows),
            )
            opened = open_in(Path(scratch) / "packs", part, limit_bytes=limit)
            num_decoded += opened.num_decoded
            seen.update(rows)
            assert [bool(reason) for reason in opened.reasons] == [
                row == NUM_POOL - 1 for row in rows
            ]
            if opened.usable_rows():
                assert_equal_to_files(part, opened)
            kept += [(part, opened)] if keeps else []
        if limit_images == 1000:
            assert num_decoded == len(seen)
        for part, opened in kept:
            if isinstance(opened, Pack) and opened.usable_rows():
                assert_equal_to_files(part, opened)


@pytest.mark.parametrize("is_damaged", [True, False])
def test_segment_that_cannot_be_opened_is_kept(
    colors: Path, tmp_path: Path, is_damaged: bool
) -> None:
    """Only damaged ones are deleted; in both cases the images are decoded again."""
    packs = tmp_path / "packs"
    open_in(packs, scan_folder(colors))
    [entry] = entries.list_entries(packs)
    (entry.folder / "segment.json").unlink()
    if not is_damaged:
        (entry.folder / "segment.json").mkdir()
    add_images(colors)
    assert open_in(packs, scan_folder(colors)).num_decoded == 39
    assert entry.folder.is_dir() != is_damaged


def test_leases_end_with_the_pack(colors: Path, tmp_path: Path) -> None:
    """A segment in use is not deleted, whichever object of this process uses it."""
    packs, scan = tmp_path / "packs", scan_folder(colors)
    first, second = open_in(packs, scan), open_in(packs, scan)
    [entry] = entries.list_entries(packs)
    for _ in itertools.repeat(None, 2):
        assert not entries.delete_if_idle(entry.folder)
        del first
        first = second
    del first, second
    assert entries.delete_if_idle(entry.folder)
    assert sorted(path.suffix for path in packs.iterdir()) == [".lock", ".lock"]
