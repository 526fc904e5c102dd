"""Shards in an object store as DATA."""

from pathlib import Path

from tests.conftest import write_classes
from tests.images.shards.examples import make_png, write_hub_parquet, write_tar
from tests.object_store import ERROR, FaultyStore
from trialrun.config.data import DataConfig
from trialrun.images.decoding.file_io import read_item
from trialrun.images.scanning.scan import scan_files
from trialrun.images.shards.listing import find_shards
from trialrun.runs.datasets.shard import shard_dataset
from trialrun.runs.datasets.sources import open_sets, open_source

DEFAULT = DataConfig()


def test_shards_in_a_store_are_the_set_that_was_written(store: FaultyStore, tmp_path: Path) -> None:
    """With their index no shard is downloaded before its images are read; faults are repeated."""
    root = write_classes(tmp_path / "set", {"a": 3, "b": 3})
    shard_dataset(str(root), str(tmp_path / "out"))
    for path in (tmp_path / "out").iterdir():
        store.put(f"written/{path.name}", path.read_bytes())
    images = open_source("s3://data/written", cache=tmp_path / "cache")
    assert scan_files(images, threads=1).content_digest() == (
        scan_files(open_source(str(root)), threads=1).content_digest()
    )
    shards = tmp_path / "cache" / "shards"
    assert not list(shards.glob("[!.]*/*.tar"))
    store.faults = [ERROR]
    item = images.items[0]
    assert read_item(images, item).data == (root / item.name).read_bytes()
    assert len(list(shards.glob("[!.]*/*.tar"))) == 1


def test_patterns_and_parts_in_a_store_are_read(store: FaultyStore, tmp_path: Path) -> None:
    """Headers are read once; names of shards say which part they are of."""
    for number in range(2):
        files = {"1.cls": b"0", "1.png": make_png(number), "2.cls": b"1", "2.png": make_png(9)}
        store.put(f"wds/x-{number}.tar", write_tar(tmp_path / "x.tar", files).read_bytes())
    images = open_source("s3://data/wds/x-{0..1}.tar", cache=tmp_path / "cache")
    assert images.count_classes() == {"0": 2, "1": 2}
    for part in ("train", "test"):
        path = write_hub_parquet(tmp_path / "x.parquet", ["a", "b"])
        store.put(f"parts/data/{part}-00000-of-00001.parquet", path.read_bytes())
    opened = open_sets("s3://data/parts", cache=tmp_path / "cache")
    assert (len(opened.train), opened.valid) == (2, None)
    assert opened.layout == "splits (train=train; not used: test)"
    assert len(open_source("s3://data/parts/test", cache=tmp_path / "cache")) == 2


def test_folders_and_archives_in_a_store_are_no_shards(store: FaultyStore, tmp_path: Path) -> None:
    """MLflow downloads them."""
    store.put("folder/cat/1.png", make_png(0))
    store.put("archives/set.tar", b"x")
    for address in ("s3://data/folder", "s3://data/folder/test", "s3://data/archives/set.tar"):
        assert find_shards(address, None, DEFAULT) is None
