"""Roots with split folders, in the layouts of the usual sources of datasets."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_classes, write_image
from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidDatasetError, TrialrunError
from trialrun.images import open_data
from trialrun.images.split_source import SplitSource, open_splits

SYNSETS = {"n01440764": 3, "n01443537": 2}


def open_root(
    root: Path, *, uses_valid: bool = True, config: DataConfig = DEFAULT_DATA_CONFIG
) -> SplitSource:
    """Open a root that has split folders."""
    opened = open_splits(str(root), root.parent / "cache", config=config, uses_valid=uses_valid)
    assert opened is not None
    return opened


def count(root: Path, **settings: Any) -> tuple[dict[str, int], dict[str, int] | None]:
    """Return the class counts of the training and the validation set of a root."""
    opened = open_root(root, config=DataConfig(**settings))
    valid = None if opened.valid is None else opened.valid.count_classes()
    return opened.train.count_classes(), valid


def test_kaggle_cats_and_dogs_are_labelled_by_their_names(tmp_path: Path) -> None:
    """`train/cat.0.jpg` has the label of label_pattern; `test1/1.jpg` is kept out."""
    for number in range(3):
        write_image(tmp_path / "set" / "train" / f"cat.{number}.png", (9, 9, 9))
        write_image(tmp_path / "set" / "train" / f"dog.{number}.png", (99, 9, 9))
        write_image(tmp_path / "set" / "test1" / f"{number}.png", (99, 9, 9))
    pattern = r"^(?P<label>[a-z]+)\.\d+\."
    assert count(tmp_path / "set", label_pattern=pattern) == ({"cat": 3, "dog": 3}, None)


@pytest.mark.parametrize("part", ["test", "archive/test"])
def test_kaggle_zip_has_a_wrapper_folder(tmp_path: Path, part: str) -> None:
    """`archive/train/cat` is read in the archive, and `set.zip/test` is its test set."""
    for name, counts in {"train": {"cat": 4, "dog": 3}, "test": {"cat": 1, "dog": 2}}.items():
        write_classes(tmp_path / "set" / "archive" / name, counts)
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set"))
    assert count(archive) == ({"cat": 4, "dog": 3}, None)
    test = open_data(f"{archive}/{part}", tmp_path / "cache")
    assert test.count_classes() == {"cat": 1, "dog": 2}
    with pytest.raises(InvalidDatasetError, match="not found"):
        open_data(f"{archive}/../set", tmp_path / "cache")


def test_imagenet_has_synsets_in_train_and_val(tmp_path: Path) -> None:
    """The classes are the synsets; the parameter and the note say how the root was read."""
    for part in ("train", "val", "test"):
        write_classes(tmp_path / "ILSVRC" / part, SYNSETS)
    assert count(tmp_path / "ILSVRC") == (SYNSETS, SYNSETS)
    opened = open_root(tmp_path / "ILSVRC")
    assert opened.layout == "splits (train=train; valid=val; not used: test)"
    assert f"evaluate and promote take {tmp_path}/ILSVRC/test" in opened.train.notes[0]


def test_hugging_face_imagefolder_has_a_table_in_each_part(tmp_path: Path) -> None:
    """The labels are those of `train/metadata.jsonl` and `validation/metadata.csv`."""
    for part in ("train", "validation"):
        write_classes(tmp_path / "set" / "data" / part, {"images": 2})
    rows = [{"file_name": f"images/00{n}.png", "text": "a", "label": n} for n in range(2)]
    folder = tmp_path / "set" / "data"
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = "file_name,label\nimages/000.png,0\nimages/001.png,1\n"
    (folder / "validation" / "metadata.csv").write_text(table)
    assert count(tmp_path / "set") == ({"0": 1, "1": 1}, {"0": 1, "1": 1})


def test_coco_has_years_in_its_names_and_a_folder_of_annotations(tmp_path: Path) -> None:
    """`train2017` and `val2017` are parts; a folder without images is none."""
    write_classes(tmp_path / "coco" / "train2017", {"bus": 3, "train": 2})
    write_classes(tmp_path / "coco" / "val2017", {"bus": 1, "train": 1})
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text("{}")
    assert count(tmp_path / "coco") == ({"bus": 3, "train": 2}, {"bus": 1, "train": 1})


def test_parts_may_be_directories_of_azure_ml(azure: Path, tmp_path: Path) -> None:
    """ImageDirectories in `Train` and `Valid` are training and validation set."""
    for part in ("train", "valid"):
        shutil.copytree(azure / f"image_directory_{part}", tmp_path / "set" / part.title())
    train, valid = count(tmp_path / "set")
    assert (sum(train.values()), valid and sum(valid.values())) == (200, 50)


def test_given_validation_data_replaces_that_of_the_root(tmp_path: Path) -> None:
    """The note names the folder that is not used, which is not read."""
    write_classes(tmp_path / "set" / "train", {"a": 2, "b": 2})
    (tmp_path / "set" / "val").mkdir()  # reading it would fail
    opened = open_root(tmp_path / "set", uses_valid=False)
    assert opened.valid is None
    assert "val is not used, because valid_data is given" in opened.train.notes[0]


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "bus", "car"),
        ("train", "val", "unlabelled"),
        ("test", "control"),
        ("val",),
        ("val", "test"),
        ("train", "val", "valid"),
        ("test1", "test2"),
    ],
    ids=" ".join,
)
def test_a_root_that_may_be_both_is_an_error(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """The error names the ways out; data_layout=classes reads classes in any case."""
    root = write_classes(tmp_path / "set", dict.fromkeys(folders, 2))
    for read in (open_root, lambda root: open_data(str(root), root)):
        with pytest.raises(InvalidDatasetError) as raised:
            read(root)
        assert "data_layout=classes" in raised.value.hint
    images = open_data(str(root), root, config=DataConfig(data_layout="classes"))
    assert set(images.classes) == set(folders)


def test_data_layout_splits_ignores_other_folders(tmp_path: Path) -> None:
    """A note names them."""
    write_classes(tmp_path / "set" / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "set" / "extra", {"a": 2})
    config = DataConfig(data_layout="splits")
    opened = open_root(tmp_path / "set", config=config)
    assert opened.train.count_classes() == {"a": 2, "b": 2}
    assert "folders that are not read: extra" in opened.train.notes
    with pytest.raises(InvalidDatasetError, match="no folders train, val or test"):
        open_root(tmp_path / "set" / "train", config=config)


def test_one_table_for_all_parts_is_an_error(tmp_path: Path) -> None:
    """A table that lists training and test images would train on the test set."""
    for part in ("train", "test"):
        write_classes(tmp_path / "set" / part, {"a": 1})
    (tmp_path / "set" / "metadata.csv").write_text(
        "file_name,label\ntrain/a/000.png,a\ntest/a/000.png,b\n"
    )
    with pytest.raises(InvalidDatasetError, match="lists images in train, test"):
        open_data(str(tmp_path / "set"), tmp_path)
    layout = DataConfig(data_layout="classes")
    assert len(open_data(str(tmp_path / "set"), tmp_path, config=layout)) == 2


def test_a_root_is_no_set_of_its_own(tmp_path: Path) -> None:
    """Where one set is needed, the error lists the parts to choose from."""
    for part in ("train", "test"):
        write_classes(tmp_path / "set" / part, {"a": 1, "b": 1})
    with pytest.raises(TrialrunError) as raised:
        open_data(str(tmp_path / "set"), tmp_path)
    assert f"Give {tmp_path}/set/test or {tmp_path}/set/train" in raised.value.hint


def test_class_folders_are_no_splits(tmp_path: Path) -> None:
    """Names that only begin like a part's are classes."""
    root = write_classes(tmp_path / "set", {"trainer": 2, "testament": 2, "value": 2})
    assert open_splits(str(root), tmp_path) is None
    assert open_data(str(root), tmp_path).classes == ("testament", "trainer", "value")
