"""Shards as DATA: names, labels and bytes as other tools wrote them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.images.shards.examples import make_png, write_hub_parquet, write_tar
from trialrun.config.data import DataConfig
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.images import ImageSet, open_data
from trialrun.images.decoding.file_io import read_item
from trialrun.images.split_source import open_splits


def _open(data: Path, tmp_path: Path, config: DataConfig | None = None) -> ImageSet:
    return open_data(str(data), tmp_path / "cache", config=config or DataConfig())


def _list(images: ImageSet) -> dict[str, str | None]:
    return {item.name: item.label for item in images.items}


def _read(images: ImageSet) -> list[bytes]:
    return [read_item(images, item).data for item in images.items]


def test_hub_parquet_has_the_names_of_its_class_label(tmp_path: Path) -> None:
    """Labels are the names in ClassLabel's order, -1 is no label, and bytes are the files."""
    folder = tmp_path / "set"
    write_hub_parquet(folder / "a-00000-of-00002.parquet", [0, 1, -1], names=["zebra", "ant"])
    write_hub_parquet(folder / "a-00001-of-00002.parquet", [1], names=["zebra", "ant"], seed=3)
    (folder / "README.md").write_text("a card")
    images = _open(folder, tmp_path)
    assert _list(images) == {"0.png": "zebra", "1.png": "ant", "2.png": None, "3.png": "ant"}
    assert images.classes == ("zebra", "ant")
    assert _read(images) == [make_png(number) for number in range(4)]


def test_hub_parquet_of_several_splits_is_read_as_its_parts(tmp_path: Path) -> None:
    """train, validation and test are the parts, in `data` too; DATA/test names one of them."""
    root = tmp_path / "set"
    for number, part in enumerate(("train", "validation", "test")):
        path = root / "data" / f"{part}-00000-of-00001-0123456789abcdef.parquet"
        write_hub_parquet(path, ["a", "b"], seed=10 * number)
    splits = open_splits(str(root), tmp_path / "cache")
    assert splits is not None
    assert splits.layout == "splits (train=train; valid=validation; not used: test)"
    assert list(_list(splits.train)) == ["0.png", "1.png"]
    assert splits.valid is not None
    assert list(_list(splits.valid)) == ["10.png", "11.png"]
    assert list(_list(_open(root / "test", tmp_path))) == ["20.png", "21.png"]
    with pytest.raises(InvalidDatasetError, match="has the sets train, validation, test"):
        _open(root, tmp_path)


def test_hub_snapshot_is_read_if_its_links_are_followed(tmp_path: Path) -> None:
    """Its files are links to ../../blobs, which lead out of the folder."""
    blob = write_hub_parquet(tmp_path / "blobs" / "0123", [0, 1], names=["a", "b"])
    snapshot = tmp_path / "snapshots" / "abc" / "data"
    snapshot.mkdir(parents=True)
    (snapshot / "train-00000-of-00001.parquet").symlink_to(blob)
    with pytest.raises(InvalidDatasetError, match=r"1 shards in .* are links") as caught:
        _open(snapshot.parent, tmp_path)
    assert "follow_links=true" in caught.value.hint
    images = _open(snapshot.parent, tmp_path, DataConfig(follow_links=True))
    assert images.count_classes() == {"a": 1, "b": 1}


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_webdataset_tars_have_labels_beside_the_images(tmp_path: Path, kind: str) -> None:
    """The label of a key is in its .cls or .json; other files are counted in a note."""
    folder, png = tmp_path / "set", make_png(0)
    for shard in range(2):
        files: dict[str, bytes] = {}
        for number in range(3):
            key, label = f"{shard}_{number}", str(number * 5)
            text = label if kind == "cls" else json.dumps({"label": label, "patient": key[0]})
            files |= {f"{key}.{kind}": text.encode(), f"{key}.png": make_png(shard * 3 + number)}
        write_tar(folder / f"{shard:06}.tar", files | {"9.png": png, "9.txt": b"a caption"})
    images = _open(folder, tmp_path)
    assert images.classes == ("0", "5", "10")
    assert images.count_classes() == {"0": 2, "5": 2, "10": 2}
    assert _list(images)["000000/9.png"] is None  # both shards have the name
    assert _read(images.drop_unlabelled()) == [make_png(number) for number in range(6)]
    assert any(note.startswith("2 files in shards that are no image") for note in images.notes)


def test_columns_name_labels_files_and_groups(tmp_path: Path) -> None:
    """label_column, file_column and group_column are columns, or fields of .json files."""
    folder = tmp_path / "set"
    columns: dict[str, list[Any]] = {
        "kind": ["x", "y"],
        "file": ["m.png", "n.png"],
        "patient": [7, 8],
    }
    write_hub_parquet(folder / "0.parquet", [0, 0], columns=columns)
    config = DataConfig(label_column="kind", file_column="file")
    images = open_data(str(folder), tmp_path / "cache", group_column="patient", config=config)
    assert [(i.name, i.label, i.group) for i in images.items] == [
        ("m.png", "x", "7"),
        ("n.png", "y", "8"),
    ]
    with pytest.raises(InvalidParameterError, match="label_column=missing"):
        _open(folder, tmp_path, DataConfig(label_column="missing"))


def test_shards_without_labels_say_which_columns_there_are(tmp_path: Path) -> None:
    """A note names the columns, one of which may be meant."""
    columns = {"category": ["x", "y"]}
    write_hub_parquet(tmp_path / "set" / "0.parquet", [0, 0], columns=columns)
    table = pq.read_table(tmp_path / "set" / "0.parquet").drop_columns(["label"])
    pq.write_table(table, tmp_path / "set" / "0.parquet")
    images = _open(tmp_path / "set", tmp_path)
    assert images.classes == ()
    assert images.notes == ("no column label in shards, but ['image', 'category']",)


def test_names_of_several_shards_are_unique(tmp_path: Path) -> None:
    """A name that occurs twice is extended by the shard's name and, if needed, its row."""
    folder = tmp_path / "set"
    for number in range(2):
        write_hub_parquet(folder / f"{number}.parquet", ["a", "b"])
    assert list(_list(_open(folder, tmp_path))) == ["0/0.png", "0/1.png", "1/0.png", "1/1.png"]
    twice = {"file": ["same.png", "same.png"]}
    write_hub_parquet(folder / "1.parquet", ["a", "b"], columns=twice)
    write_hub_parquet(folder / "0.parquet", ["a", "b"], columns=twice)
    names = list(_list(_open(folder, tmp_path, DataConfig(file_column="file"))))
    assert names[-1] == "1/000001/same.png"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


@pytest.mark.parametrize("name", ["1.tar", "1.parquet"])
def test_a_truncated_shard_is_an_error_with_its_name(tmp_path: Path, name: str) -> None:
    """No image of a shard is left out because its end is missing."""
    if name.endswith("tar"):
        path = write_tar(tmp_path / "set" / name, {"1.cls": b"0", "1.png": make_png(0)})
        path.write_bytes(path.read_bytes()[:1024] + b"".join([make_png(0)[:50]]))
    else:
        _cut(write_hub_parquet(tmp_path / "set" / name, ["a", "b"]))
    with pytest.raises(InvalidDatasetError, match=rf"{name} .*truncated") as caught:
        _open(tmp_path / "set", tmp_path)
    assert caught.value.exit_code == 3


def test_a_tar_without_its_end_is_truncated(tmp_path: Path) -> None:
    """A tar that was cut between two files reads like a complete one."""
    path = write_tar(tmp_path / "set" / "1.tar", {"1.cls": b"0", "1.png": make_png(0)})
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(InvalidDatasetError, match=r"1\.tar is damaged or truncated"):
        _open(tmp_path / "set", tmp_path)


def test_joined_tars_are_an_error(tmp_path: Path) -> None:
    """Readers stop at the end of the first one, and the images behind it would be left out."""
    first = write_tar(tmp_path / "a.tar", {"1.cls": b"0", "1.png": make_png(0)})
    second = write_tar(tmp_path / "b.tar", {"2.cls": b"1", "2.png": make_png(1)})
    shard = tmp_path / "set" / "1.tar"
    shard.parent.mkdir()
    shard.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(InvalidDatasetError, match=r"1\.tar has data behind its end"):
        _open(shard.parent, tmp_path)


def test_a_tar_of_class_folders_with_metadata_is_an_archive(tmp_path: Path) -> None:
    """A .json file beside each image makes it a shard only if it has the label."""
    files: dict[str, bytes] = {}
    for number, name in enumerate(("cat", "dog")):
        files |= {f"{name}/1.json": b'{"license": 3}', f"{name}/1.png": make_png(number)}
    images = _open(write_tar(tmp_path / "pets.tar", files), tmp_path)
    assert (images.shards, images.classes) == (None, ("cat", "dog"))
    labelled = {name: b'{"label": "x"}' if "json" in name else file for name, file in files.items()}
    images = _open(write_tar(tmp_path / "shard.tar", labelled), tmp_path)
    assert images.shards is not None
    assert images.classes == ("x",)


def test_a_key_twice_in_a_shard_is_an_error(tmp_path: Path) -> None:
    """Of two samples with one key, the labels could be mixed up."""
    files = {"1.cls": b"0", "1.png": make_png(0), "2.png": make_png(1), "1.jpg": make_png(2)}
    write_tar(tmp_path / "set" / "0.tar", files)
    with pytest.raises(InvalidDatasetError, match="has the key 1 twice"):
        _open(tmp_path / "set", tmp_path)


def test_compressed_shards_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """Images cannot be read at their places in a compressed tar."""
    for number in range(2):
        path = write_tar(tmp_path / "set" / f"{number}.tar", {"1.cls": b"0", "1.png": b"x"})
        path.rename(path.with_suffix(".tar.gz"))
    with pytest.raises(InvalidDatasetError, match="2 compressed archives") as caught:
        _open(tmp_path / "set", tmp_path)
    assert "gunzip" in caught.value.hint


def test_a_stored_index_is_used_while_the_shards_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second start reads no header; a changed shard is read again."""
    folder = tmp_path / "set"
    files = {"1.cls": b"a", "1.png": make_png(0), "2.cls": b"b", "2.png": make_png(1)}
    write_tar(folder / "0.tar", files)
    assert _open(folder, tmp_path).classes == ("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr("trialrun.images.shards.index.build_index", None)
        patch.setattr("trialrun.images.shards.open.build_index", None)
        assert _open(folder, tmp_path).classes == ("a", "b")
    write_tar(folder / "0.tar", files | {"1.cls": b"c"})
    assert _open(folder, tmp_path).classes == ("b", "c")


def test_parquet_files_beside_images_are_ambiguous(tmp_path: Path) -> None:
    """A pattern says that the Parquet files are the data; tables without images are none."""
    root = tmp_path / "set"
    write_hub_parquet(root / "0.parquet", ["x", "y"])
    write_classes_beside(root)
    with pytest.raises(InvalidDatasetError, match="1 Parquet files with images, and image files"):
        _open(root, tmp_path)
    assert _open(root / "*.parquet", tmp_path).classes == ("x", "y")
    pq.write_table(pa.table({"name": ["cat/1.png"]}), root / "0.parquet")
    assert _open(root, tmp_path).classes == ("cat", "dog")


def test_missing_shards_of_a_folder_are_an_error(tmp_path: Path) -> None:
    """Names say how many shards there are; a pattern may name some of them."""
    write_hub_parquet(tmp_path / "set" / "train-00001-of-00002.parquet", ["x", "y"])
    with pytest.raises(InvalidDatasetError, match=r"lacks 1 of 2 shards, such as train-00000"):
        _open(tmp_path / "set", tmp_path)
    assert _open(tmp_path / "set" / "train-*.parquet", tmp_path).classes == ("x", "y")


def test_archives_of_class_folders_beside_each_other_are_no_shards(tmp_path: Path) -> None:
    """A tar without label files and number in its name is not read as a shard."""
    write_tar(tmp_path / "set" / "backup.tar", {"cat/1.png": make_png(0)})
    images = _open(write_classes_beside(tmp_path / "set"), tmp_path)
    assert images.shards is None
    assert images.classes == ("cat", "dog")


def write_classes_beside(root: Path) -> Path:
    """Add class folders with one image each."""
    for name in ("cat", "dog"):
        (root / name).mkdir()
        (root / name / "1.png").write_bytes(make_png(1))
    return root
