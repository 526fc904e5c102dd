"""Folders and file names: faults 17 to 30."""

import csv
import io
import os
import shutil
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import trialrun
from tests.conftest import write_classes, write_image
from trialrun.errors import DataError, InvalidDatasetError, NotLabeledDatasetError, TrialrunError
from trialrun.image_cache import open_pack
from trialrun.images import ImageItem, ImageSet, check_trainable, make_printable, open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import scan_files
from trialrun.runs.datasets.check import check_datasets
from trialrun.runs.evaluation.tables import format_csv
from trialrun.runs.training.plan import plan_training


def open_folder(folder: Path) -> ImageSet:
    """Open a folder as an image set."""
    return open_data(str(folder), folder.parent / "cache")


def plan_rejected(**settings: object) -> TrialrunError:
    """Plan a training run that is rejected, and return the error."""
    with pytest.raises(DataError) as caught:
        plan_training(settings)
    assert caught.value.exit_code == 3
    return caught.value


def test_fault_17_an_empty_class_is_named(colors: Path) -> None:
    """The error for a class folder without images has its name."""
    (colors / "yellow").mkdir()
    error = plan_rejected(train_data=str(colors))
    assert isinstance(error, InvalidDatasetError)
    assert "no images in class yellow" in str(error)


def test_fault_18_system_files_are_ignored(colors: Path) -> None:
    """Hidden folders and files of file managers are neither classes nor images."""
    for name in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(colors / "red", colors / name)
    for name in (".DS_Store", "Thumbs.db"):
        (colors / name).write_bytes(b"x")
        (colors / "red" / name).write_bytes(b"x")
    shutil.copy(colors / "red" / "000.png", colors / "red" / "._000.png")
    images = open_folder(colors)
    assert images.count_classes() == {"blue": 12, "green": 12, "red": 12}
    assert images.notes == ()


def test_fault_19_one_class_is_an_error(tmp_path: Path) -> None:
    """A classifier needs at least two classes."""
    assert "one class only: a" in str(
        plan_rejected(train_data=str(write_classes(tmp_path / "set", {"a": 9})), batch_size=2)
    )


def test_fault_20_both_differences_are_listed(tmp_path: Path) -> None:
    """The error lists the classes that only one set has, for each set."""
    train = write_classes(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    valid = write_classes(tmp_path / "valid", {"b": 2, "c": 2, "d": 2})
    text = str(plan_rejected(train_data=str(train), valid_data=str(valid), batch_size=2))
    assert "only in validation" in text
    assert ": d" in text
    assert "only in training" in text
    assert ": a" in text


def test_fault_21_a_loop_of_links_ends(colors: Path) -> None:
    """A link to a parent folder is not followed, and a note counts it."""
    (colors / "red" / "loop").symlink_to(colors)
    images = open_folder(colors)
    assert len(images) == 36
    assert any("links back to a folder" in note for note in images.notes)


@pytest.mark.parametrize("link", ["a_link", "kitty", "zebra"])
def test_link_to_a_class_is_not_a_class(tmp_path: Path, link: str) -> None:
    """Images are listed under the real folder, for any name of the link."""
    folder = write_classes(tmp_path / "set", {"cat": 3, "dog": 2})
    (folder / link).symlink_to("cat")
    (folder / "cat" / "inner").symlink_to(folder / "dog")
    images = open_folder(folder)
    assert images.count_classes() == {"cat": 3, "dog": 2}
    (note,) = images.notes
    assert note.startswith("2 links to a folder already read (not followed), for example ")


def test_link_to_an_unread_folder_is_followed(tmp_path: Path) -> None:
    """A link to a hidden folder is followed: some tools store data that way."""
    folder = write_classes(tmp_path / "set", {".store": 3, "dog": 2})
    (folder / "cat").symlink_to(".store")
    assert open_folder(folder).count_classes() == {"cat": 3, "dog": 2}


def test_folders_may_be_nested_deeply(tmp_path: Path) -> None:
    """Listing does not recurse, so that Python's recursion limit does not matter."""
    folder = write_classes(tmp_path / "set", {"a": 1, "b": 1})
    deep = folder / "a"
    for _ in range(600):
        deep /= "d"
        deep.mkdir()
    shutil.copy(folder / "a" / "000.png", deep)
    assert open_folder(folder).count_classes() == {"a": 2, "b": 1}


def test_fault_22_a_link_out_of_the_folder_is_refused(colors: Path, tmp_path: Path) -> None:
    """Neither a folder listing nor an image list reaches files outside the folder."""
    write_image(tmp_path / "secret.png", (1, 2, 3))
    (colors / "red" / "link.png").symlink_to(tmp_path / "secret.png")
    images = open_folder(colors)
    assert len(images) == 36
    assert any("lead out" in note for note in images.notes)
    (colors / "metadata.csv").write_text("file_name,label\nred/link.png,a\nred/000.png,b\n")
    values = check_datasets(str(colors)).to_json()["sets"][0]
    assert values["skipped"] == {"red/link.png": "a link that leads out of the folder"}
    (colors / "metadata.csv").write_text("file_name,label\n../secret.png,a\n")
    with pytest.raises(InvalidDatasetError, match="leads out of the folder"):
        open_folder(colors)


def test_fault_23_pipes_and_sockets_do_not_hang(colors: Path) -> None:
    """Special files are not listed, and are skipped if an image list names them."""
    os.mkfifo(colors / "red" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        before = Path.cwd()
        os.chdir(colors / "red")  # a socket's address holds 107 characters
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(before)
        images = open_folder(colors)
        assert len(images) == 36
        assert images.notes[0].startswith("2 pipes, sockets or devices (skipped), for example red/")
        listed = ImageSet("x", colors, (ImageItem("red/pipe.png"), ImageItem("red/socket.png")))
        assert all(file.reason for file in scan_files(listed, threads=1).files)


UNUSUAL_NAMES = ["new\nline", 'quo"te', "com,ma", "emo\U0001f600ji", "tab\there", " space "]


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_fault_24_unusual_names_are_read(tmp_path: Path, name: str) -> None:
    """Classes and files may have any name; each is one row of a CSV file."""
    write_image(tmp_path / "set" / name / f"{name}.png", (9, 9, 9))
    (item,) = open_folder(tmp_path / "set").items
    assert item.label == name
    assert item.name == f"{name}/{name}.png"
    shown = make_printable(item.name)
    assert "\n" not in shown
    (row,) = csv.DictReader(io.StringIO(format_csv([{"name": item.name, "label": item.label}])))
    assert row == {"name": item.name, "label": name}


def test_fault_25_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    """Names that are not valid UTF-8 are shown with escapes."""
    folder = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    path = os.fsencode(folder) + b"/a/\xff\xfe.png"
    shutil.copy(folder / "a" / "000.png", os.fsdecode(path))
    values = check_datasets(str(folder)).to_json()
    assert values["sets"][0]["num_good"] == 5
    assert values["findings"]["num_repeated"] == 1
    assert make_printable(os.fsdecode(b"a/\xff\xfe.png")) == "a/\\xff\\xfe.png"


def test_fault_26_similar_classes_are_listed(tmp_path: Path) -> None:
    """The error lists each pair of classes that differ in case or Unicode form only."""
    composed = unicodedata.normalize("NFC", "caf\u00e9")
    names = ["Cat", "cat", composed, unicodedata.normalize("NFD", composed)]
    images = ImageSet("set", tmp_path, tuple(ImageItem(f"{name}/1.png", name) for name in names))
    (error,) = check_trainable(images)
    assert error.exit_code == 3
    assert "'Cat' and 'cat'" in str(error)
    assert "'caf\\xe9'" in str(error)


def test_classes_that_differ_after_case_folding_only_are_allowed(tmp_path: Path) -> None:
    """Masse and Maße are different names on every file system."""
    items = tuple(ImageItem(f"{name}/1.png", name) for name in ("Masse", "Ma\u00dfe"))
    assert check_trainable(ImageSet("set", tmp_path, items)) == []


def test_fault_27_duplicates_are_counted(tmp_path: Path) -> None:
    """Images in both sets, and with two labels, are reported with counts and names."""
    train = write_classes(tmp_path / "train", {"a": 5, "b": 5})
    valid = write_classes(tmp_path / "valid", {"a": 5, "b": 5}, seed=77)
    shutil.copy(train / "a" / "001.png", valid / "a" / "leak.png")
    shutil.copy(train / "a" / "002.png", train / "b" / "relabelled.png")
    checked = check_datasets(str(train), str(valid))
    assert checked.leakage.counts() == {
        "leaked_images": 1,
        "conflicting_labels": 1,
        "near_duplicates": 0,
        "shared_groups": 0,
    }
    assert checked.leakage.duplicates.leaked == (("a/001.png", "a/leak.png"),)
    assert any("under more than one label" in note for note in checked.leakage.notes())


def test_fault_28_deleted_file_is_still_cached(colors: Path, tmp_path: Path) -> None:
    """Cached images are used after their files are deleted; without a cache it is an error."""
    scan = scan_files(open_folder(colors), threads=2)
    rows = np.arange(36)

    def decode(folder: str, limit_bytes: int):  # type: ignore[no-untyped-def]
        return open_pack(
            scan, Preprocessing(16), tmp_path / folder, threads=2, limit_bytes=limit_bytes
        )

    cached, on_the_fly = decode("packs", 10**9), decode("none", 0)
    before = cached.pixels(rows)
    assert (on_the_fly.pixels(rows) == before).all()
    shutil.rmtree(colors / "red")
    assert (decode("packs", 10**9).pixels(rows) == before).all()
    with pytest.raises(InvalidDatasetError, match="changed during the run"):
        on_the_fly.pixels(rows)


def test_fault_28_changed_file_is_skipped(colors: Path, tmp_path: Path) -> None:
    """A file that changed after the scan is not cached."""
    scan = scan_files(open_folder(colors), threads=2)
    write_image(colors / "red" / "003.png", (1, 1, 1), seed=5)
    pack = open_pack(scan, Preprocessing(16), tmp_path / "packs", threads=2, limit_bytes=10**9)
    assert [reason for reason in pack.reasons if reason] == ["changed while it was being read"]


def test_fault_29_nested_and_unlabelled_images_are_noted(colors: Path) -> None:
    """Nested images belong to their class, images beside the classes are dropped; with notes."""
    write_image(colors / "red" / "2024" / "may" / "1.png", (200, 0, 0))
    write_image(colors / "unlabelled.png", (0, 0, 0))
    images = open_folder(colors)
    assert images.count_classes()["red"] == 13
    labelled = images.drop_unlabelled()
    assert len(labelled) == 37
    assert "1 images in deeper folders belong to their top folder's class" in labelled.notes
    assert "1 images without a label are left out" in labelled.notes


def test_fault_30_unlabelled_images_cannot_train(tmp_path: Path) -> None:
    """A folder of images without classes raises NotLabeledDatasetError, as in Azure ML designer."""
    write_image(tmp_path / "flat" / "1.png", (1, 1, 1))
    assert isinstance(plan_rejected(train_data=str(tmp_path / "flat")), NotLabeledDatasetError)
    assert check_datasets(str(tmp_path / "flat")).problems == ()


def test_fault_30_unlabelled_images_are_scored(tmp_path: Path, azure: Path) -> None:
    """A folder without labels can be scored."""
    source = azure / "image_directory_valid" / "image"
    result = trialrun.score(
        str(azure / "model_directory"), str(source), str(tmp_path / "scored.csv")
    )
    assert (result.num_images, result.num_errors) == (50, 0)
