"""Tests of scans of sets in shards."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.images.shards.examples import make_png, write_hub_parquet, write_tar
from trialrun.images import ImageSet, open_data
from trialrun.images.decoding import header
from trialrun.images.items import ItemTable
from trialrun.images.scanning import shard_scan
from trialrun.images.scanning.scan import scan_files


def open_folder(folder: Path) -> ImageSet:
    """Open the shards in a folder with a cache beside it."""
    return open_data(str(folder), folder.parent / "cache")


def write_shards(folder: Path, kind: str) -> ImageSet:
    """Write two shards of five images; image N has the bytes of `make_png(N)`."""
    for shard, start in enumerate((0, 3)):
        numbers = range(start, min(start + 3, 5))
        if kind == "parquet":
            labels = [number % 2 for number in numbers]
            write_hub_parquet(folder / f"{shard}.parquet", labels, names=["a", "b"], seed=start)
            continue
        files: dict[str, bytes] = {}
        for number in numbers:
            label = b"ab"[number % 2 : number % 2 + 1]
            files |= {f"{number}.cls": label, f"{number}.png": make_png(number)}
        write_tar(folder / f"{shard}.tar", files)
    return open_folder(folder)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize("max_rows", [2, 512])
def test_scans_are_in_the_order_of_the_images(
    tmp_path: Path, kind: str, max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of both shards in any order, in blocks of several sizes."""
    monkeypatch.setattr(shard_scan, "_MAX_ROWS", max_rows)
    images = write_shards(tmp_path / "set", kind)
    for order in ([0, 1, 2, 3, 4], [4, 0, 3, 1], [2]):
        scan = scan_files(images.subset(np.array(order)), threads=2)
        hashes = [hashlib.sha256(make_png(number)).hexdigest() for number in order]
        assert [file.sha256 for file in scan.files] == hashes
        assert {(file.width, file.height) for file in scan.files} == {(4, 4)}


def test_rows_without_bytes_are_named(tmp_path: Path) -> None:
    """An image of which the shard has only the path, and a row without an image."""
    rows = [{"bytes": make_png(0), "path": "0.png"}, {"bytes": None, "path": "1.png"}, None]
    path = tmp_path / "set" / "0.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"image": rows, "label": ["a", "b", "c"]}), path)
    scan = scan_files(open_folder(tmp_path / "set"), threads=1)
    assert [bool(file.reason) for file in scan.files] == [False, True, True]
    assert "path of a file" in scan.files[1].reason


def test_a_slow_image_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    """If a block of images takes too long, each gets a time limit of its own."""
    images = write_shards(tmp_path / "set", "tar")
    assert isinstance(images.items, ItemTable)
    block = next(shard_scan._read_blocks(images, images.items))
    assert shard_scan._scan_one_by_one(block) == shard_scan._scan_block(block)
    assert len(block.names) == 5


def test_plain_images_are_scanned_without_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow takes ten times as long to read a header."""
    monkeypatch.setattr(header, "open_lazily", pytest.fail)
    scan = scan_files(write_shards(tmp_path / "set", "parquet"), threads=1)
    assert not any(file.reason for file in scan.files)
