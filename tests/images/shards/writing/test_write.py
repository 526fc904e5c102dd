"""Shards that `trialrun data shard` writes: the same set again, in the same bytes."""

import json
import re
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from tests.images.shards.examples import make_png
from trialrun.config.data import DataConfig
from trialrun.config.shard import ShardConfig
from trialrun.errors import StorageError
from trialrun.images import ImageSet, open_data, split_stratified
from trialrun.images.decoding.file_io import read_item
from trialrun.images.scanning.scan import scan_files
from trialrun.runs.datasets.shard import shard_dataset


def _read(images: ImageSet) -> dict[str, tuple[str | None, bytes]]:
    return {item.name: (item.label, read_item(images, item).data) for item in images.items}


def _open(data: Path, tmp_path: Path) -> ImageSet:
    return open_data(str(data), tmp_path / "cache")


_names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=8)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(_names, st.none() | st.sampled_from(["a", "Ä b", "7"]), min_size=1),
    file_format=st.sampled_from(["tar", "parquet"]),
    has_index=st.booleans(),
)
def test_shards_have_the_same_names_labels_and_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, str | None],
    file_format: str,
    has_index: bool,
) -> None:
    """Whatever the names are, with the index and without it."""
    tmp_path = tmp_path_factory.mktemp("set")
    root = tmp_path / "set"
    root.mkdir()
    lines = []
    for number, (name, label) in enumerate(rows.items()):
        (root / f"{name}.png").write_bytes(make_png(number))
        lines.append(json.dumps({"file_name": f"{name}.png", "label": label}))
    (root / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    shard_dataset(str(root), str(tmp_path / "out"), config=ShardConfig(format=file_format))
    if not has_index:
        (tmp_path / "out" / "index.parquet").unlink()
    assert _read(_open(tmp_path / "out", tmp_path)) == _read(_open(root, tmp_path))


def test_shards_are_the_set_that_was_written(tmp_path: Path) -> None:
    """Digest, split, class order and notes are those of the folder; shards mix classes."""
    root = write_classes(tmp_path / "set", {"b": 12, "a": 12})
    (root / "a" / "broken.png").write_bytes(b"no image")
    (tmp_path / "classes.txt").write_text("b\na\n")
    config = ShardConfig(shard_size_mb=1, classes=str(tmp_path / "classes.txt"))
    result = shard_dataset(str(root), str(tmp_path / "out"), config=config)
    assert (result.num_images, result.num_skipped, result.images_by_class) == (
        24,
        1,
        {"b": 12, "a": 12},
    )
    shards = _open(tmp_path / "out", tmp_path)
    assert shards.classes == ("b", "a")
    assert any("1 images could not be read" in note for note in shards.notes)
    (root / "a" / "broken.png").unlink()
    folder = open_data(str(root), tmp_path / "cache", config=DataConfig(classes=config.classes))
    assert scan_files(shards, threads=1).content_digest() == (
        scan_files(folder, threads=1).content_digest()
    )
    parts = [
        split_stratified(images, second_fraction=0.3, random_seed=5) for images in (folder, shards)
    ]
    digests = [scan_files(second, threads=1).content_digest() for _, second in parts]
    assert digests[0] == digests[1]
    first = [item.label for item in shards.items][:12]
    assert 0 < first.count("a") < 12


@pytest.mark.parametrize("file_format", ["tar", "parquet"])
def test_shards_have_the_same_bytes_for_the_same_seed(tmp_path: Path, file_format: str) -> None:
    """Neither the time nor the name of the folder is in them; another seed is another order."""
    root = write_classes(tmp_path / "set", {"a": 5, "b": 5})
    contents = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        config = ShardConfig(format=file_format, random_seed=seed)
        shard_dataset(str(root), str(tmp_path / name), config=config)
        contents.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).iterdir())})
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_keep_order_and_size_decide_the_shards(tmp_path: Path) -> None:
    """Images are in the order of the set, and shards have about the size that was asked for."""
    root = write_classes(tmp_path / "set", {"a": 120, "b": 120}, size=64)
    config = ShardConfig(shard_size_mb=1, keep_order=True)
    result = shard_dataset(str(root), str(tmp_path / "out"), config=config)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert len(sizes) == result.num_shards > 1
    assert max(sizes) < 1.1e6
    names = [item.name for item in _open(tmp_path / "out", tmp_path).items]
    assert names == sorted(names)


def test_other_tools_can_read_the_shards(tmp_path: Path) -> None:
    """Tars have WebDataset's keys and numbers of classes, Parquet Hugging Face's ClassLabel."""
    root = write_classes(tmp_path / "set", {"a": 2, "b": 1})
    for file_format in ("tar", "parquet"):
        config = ShardConfig(format=file_format, keep_order=True)
        shard_dataset(str(root), str(tmp_path / file_format), config=config)
    with tarfile.open(next((tmp_path / "tar").glob("*.tar"))) as tar:
        names = tar.getnames()
        label = tar.extractfile("000000002.cls")
        assert label is not None
        assert (names[:3], label.read()) == (
            ["000000000.png", "000000000.cls", "000000000.json"],
            b"1",
        )
    table = pq.read_table(next((tmp_path / "parquet").glob("shard-*")))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["a", "b"], "_type": "ClassLabel"}
    assert table["label"].to_pylist() == [0, 0, 1]


def test_a_folder_with_files_is_not_overwritten(tmp_path: Path) -> None:
    """The folder of shards is written completely or not at all."""
    root = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("data")
    with pytest.raises(StorageError):
        shard_dataset(str(root), str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_an_index_of_other_shards_is_not_used(tmp_path: Path) -> None:
    """The shards' own headers are read instead, and a note says so."""
    root = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    out = tmp_path / "out"
    shard_dataset(str(root), str(out))
    shard = next(out.glob("*.tar"))
    shard.write_bytes(shard.read_bytes() + bytes(512))
    images = _open(out, tmp_path)
    assert images.classes == ("a", "b")
    assert re.search("index.parquet does not fit the shards", images.notes[0])


@pytest.mark.parametrize("has_index", [True, False])
def test_groups_are_written_and_read_on_request(tmp_path: Path, has_index: bool) -> None:
    """The groups that a pattern finds are the column `group` of the shards."""
    root = write_classes(tmp_path / "set", {"a": 12, "b": 12})
    config = ShardConfig(group_pattern=r"/(\d\d)")
    shard_dataset(str(root), str(tmp_path / "out"), config=config)
    if not has_index:
        (tmp_path / "out" / "index.parquet").unlink()
    images = open_data(str(tmp_path / "out"), tmp_path / "cache", group_column="group")
    assert {item.group for item in images.items} == {"00", "01"}
    plain = open_data(str(tmp_path / "out"), tmp_path / "cache")
    assert {item.group for item in plain.items} == {None}
