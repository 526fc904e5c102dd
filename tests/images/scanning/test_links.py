"""Links out of a dataset, and files that are left out: counted, named, and followed on demand."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import write_classes, write_image
from trialrun.config.data import CheckConfig, DataConfig
from trialrun.errors import DataError, InvalidDatasetError
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.images import ImageSet, check_trainable, open_data
from trialrun.images.scanning.scan import scan_files
from trialrun.runs.datasets.check import check_datasets

FOLLOW = DataConfig(follow_links=True)


def read_set(folder: Path, config: DataConfig | None = None) -> ImageSet:
    """Open a folder as an image set."""
    return open_data(str(folder), folder.parent / "cache", config=config or DataConfig())


def write_snapshot(root: Path, classes: dict[str, int]) -> Path:
    """Write a repository as in Hugging Face's cache; return the snapshot."""
    repository = root / "datasets--org--pets"
    snapshot = repository / "snapshots" / "0a1b2c"
    (repository / "blobs").mkdir(parents=True)
    for label, count in classes.items():
        (snapshot / label).mkdir(parents=True)
        for number in range(count):
            blob = f"{label}{number}".encode().hex()
            write_image(repository / "blobs" / f"{blob}.png", (9, 9, number), seed=number)
            (repository / "blobs" / f"{blob}.png").rename(repository / "blobs" / blob)
            link = snapshot / label / f"{number}.png"
            link.symlink_to(f"../../../blobs/{blob}")
    return snapshot


def test_snapshot_of_the_hub_is_read_with_follow_links(tmp_path: Path) -> None:
    """Without the setting the error names links and setting; with it every image is read."""
    snapshot = write_snapshot(tmp_path, {"cat": 3, "dog": 4})
    (error,) = check_trainable(read_set(snapshot))
    assert "every class is empty" in str(error)
    assert "7 links" in str(error)
    assert "cat/0.png" in str(error)
    assert "follow_links=true" in error.hint
    report = check_datasets(str(snapshot), config=CheckConfig(follow_links=True))
    values = report.to_json()["sets"][0]
    assert (values["images_by_class"], values["num_good"]) == ({"cat": 3, "dog": 4}, 7)
    assert report.problems == ()
    with pytest.raises(InvalidDatasetError, match="Hugging Face's cache") as caught:
        read_set(snapshot.parents[1])
    assert "snapshots/0a1b2c" in caught.value.hint


def test_class_folder_that_is_a_link_is_an_error_or_followed(tmp_path: Path) -> None:
    """A class is never missing silently: the error names the link, and the setting reads it."""
    folder = write_classes(tmp_path / "set", {"cat": 2, "dog": 2})
    (folder / "fox").symlink_to(write_classes(tmp_path / "other", {"fox": 3}) / "fox")
    images = read_set(folder)
    assert any("for example fox" in note for note in images.notes)
    (error,) = check_trainable(images)
    assert "no images in class fox; 1 links" in str(error)
    followed = read_set(folder, FOLLOW)
    assert followed.count_classes() == {"cat": 2, "dog": 2, "fox": 3}
    assert not any(file.reason for file in scan_files(followed, threads=1).files)


def test_root_of_links_only_names_them(tmp_path: Path) -> None:
    """The error for a root without images has the links and the setting."""
    other = write_classes(tmp_path / "other", {"a": 1})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").symlink_to(other / "a" / "000.png")
    with pytest.raises(DataError, match=r"has no images; 1 links.*1\.png") as caught:
        read_set(tmp_path / "set")
    assert "follow_links=true" in caught.value.hint


def test_followed_links_end_and_count_once(tmp_path: Path) -> None:
    """Cycles, a link to a parent of the root, and a second link to a folder are not read."""
    folder = write_classes(tmp_path / "top" / "set", {"cat": 2})
    store = write_classes(tmp_path / "store", {"dog": 2})
    (store / "dog" / "cycle").symlink_to(store / "dog")
    (folder / "dog").symlink_to(store / "dog")
    (folder / "dog again").symlink_to(store / "dog")
    (folder / "cat" / "up").symlink_to(tmp_path / "top")
    (folder / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images = read_set(folder, FOLLOW)
    assert images.count_classes() == {"cat": 2, "dog": 2}
    notes = " | ".join(images.notes)
    assert "2 links back to a folder that contains them" in notes
    assert "1 links to a folder already read" in notes
    assert "1 links that lead nowhere" in notes


def test_scans_of_followed_links_are_not_used_without_the_setting(tmp_path: Path) -> None:
    """An earlier run that followed links does not open them to a run that does not."""
    folder = write_classes(tmp_path / "set", {"a": 1})
    write_image(tmp_path / "outside.png", (1, 2, 3))
    os.utime(tmp_path / "outside.png", (0, 0))
    (folder / "a" / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "metadata.csv").write_text("file_name,label\na/000.png,a\na/link.png,b\n")
    reasons = []
    for config in (FOLLOW, DataConfig()):
        scan = scan_with_cache(read_set(folder, config), tmp_path / "scans", threads=1)
        reasons.append(scan.files[1].reason)
    assert reasons == ["", "a link that leads out of the folder"]


def test_files_that_are_not_images_or_not_listed_are_named(tmp_path: Path) -> None:
    """Unknown endings, and images that a table does not list, are counted with examples."""
    folder = write_classes(tmp_path / "set", {"cat": 4, "dog": 3})
    for number in range(2):
        (folder / "cat" / f"{number:03}.png").rename(folder / "cat" / f"{number:03}.PNG~1")
    (note,) = read_set(folder).notes
    assert note.startswith("2 files without an image's ending (ignored), for example cat/00")
    (folder / "metadata.csv").write_text("file_name,label\ncat/002.png,cat\ndog/000.png,dog\n")
    (note,) = read_set(folder).notes
    assert note == (
        "3 image files are not in metadata.csv (ignored), for example "
        "cat/003.png, dog/001.png, dog/002.png"
    )
    assert check_datasets(str(folder)).to_json()["sets"][0]["notes"] == [note]


def test_class_whose_name_is_not_utf8_has_an_escaped_label(tmp_path: Path) -> None:
    r"""The label is text that MLflow can store, and the file is read under its own name."""
    folder = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    (folder / "b").rename(folder / os.fsdecode(b"caf\xe9"))
    images = read_set(folder)
    assert images.classes == ("a", "caf\\xe9")
    assert images.declared_classes == images.classes
    assert not any(file.reason for file in scan_files(images, threads=1).files)


def test_scans_of_vanished_folders_are_deleted(tmp_path: Path) -> None:
    """The next scan deletes those of folders that no longer exist."""
    for name in ("one", "two"):
        folder = write_classes(tmp_path / name, {"a": 1, "b": 1})
        for path in folder.rglob("*.png"):
            os.utime(path, (0, 0))
    scans = tmp_path / "scans"
    (scans / "x.json").parent.mkdir()
    (scans / "x.json").write_text('{"format":2,"rows":{}}')
    for name in ("one", "two"):
        scan_with_cache(read_set(tmp_path / name), scans, threads=1)
        shutil.rmtree(tmp_path / name)
    assert len(list(scans.glob("*.json"))) == 1
