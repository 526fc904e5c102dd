"""Dataset layouts, labels and checks of classes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import write_classes, write_image
from trialrun.errors import InvalidDatasetError, NotLabeledDatasetError, TrialrunError
from trialrun.images import (
    ImageItem,
    ImageSet,
    check_same_classes,
    check_trainable,
    label_indices,
    open_data,
    split_stratified,
)


def open_folder(folder: Path) -> ImageSet:
    """Open a folder as an image set; the cache is not used for folders."""
    return open_data(str(folder), folder)


def types_of(errors: Sequence[TrialrunError]) -> set[type[TrialrunError]]:
    """Return the errors' types."""
    return {type(error) for error in errors}


def test_classes_are_sorted_by_name(tmp_path: Path) -> None:
    """Classes do not depend on the order of folders on disk."""
    write_classes(tmp_path, {"zebra": 2, "ant": 3})
    images = open_folder(tmp_path)
    assert images.classes == ("ant", "zebra")
    assert images.count_classes() == {"ant": 3, "zebra": 2}


def test_system_files_are_ignored(tmp_path: Path) -> None:
    """Folders and files of notebooks and operating systems are not classes or images."""
    write_classes(tmp_path, {"a": 2, "b": 2, ".ipynb_checkpoints": 1, "__MACOSX": 1})
    (tmp_path / "a" / ".DS_Store").touch()
    (tmp_path / "a" / "Thumbs.db").touch()
    assert open_folder(tmp_path).count_classes() == {"a": 2, "b": 2}


def test_unlabelled_images_cannot_be_trained_on(tmp_path: Path) -> None:
    """Images without class folders raise NotLabeledDatasetError."""
    write_image(tmp_path / "one.png", (1, 2, 3))
    assert types_of(check_trainable(open_folder(tmp_path))) == {NotLabeledDatasetError}


def test_one_class_is_refused(tmp_path: Path) -> None:
    """A classifier needs at least two classes."""
    errors = check_trainable(open_folder(write_classes(tmp_path, {"only": 3})))
    assert "one class only: only" in str(errors[0])


def test_empty_class_is_named(tmp_path: Path) -> None:
    """The error for a class folder without images has its name."""
    write_classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "hollow").mkdir()
    errors = check_trainable(open_folder(tmp_path))
    assert types_of(errors) == {InvalidDatasetError}
    assert "hollow" in str(errors[0])


def test_error_of_a_missing_folder_has_the_current_folder() -> None:
    """The message helps with relative paths."""
    with pytest.raises(InvalidDatasetError, match=r"current folder"):
        open_data("no/such/folder", Path())


def test_classes_of_only_one_set_are_listed(tmp_path: Path) -> None:
    """The error lists classes that are missing in either set."""
    train = open_folder(write_classes(tmp_path / "t", {"a": 1, "b": 1}))
    valid = open_folder(write_classes(tmp_path / "v", {"b": 1, "c": 1}))
    (error,) = check_same_classes(train, valid)
    assert "only in validation" in str(error)
    assert "only in training" in str(error)


def test_labels_are_mapped_by_name() -> None:
    """A class index does not depend on the order of the items."""
    items = [ImageItem("1", "b"), ImageItem("2", "a")]
    assert label_indices(items, ("a", "b")) == [1, 0]


def test_digits_are_written_as_files(cache_folder: Path) -> None:
    """The sample has 1,797 PNG files in 10 classes."""
    images = open_data("sample:digits", cache_folder)
    assert (len(images), len(images.classes)) == (1797, 10)
    first = images.path_of(images.items[0])
    assert first.read_bytes().startswith(b"\x89PNG")


def test_azure_image_directory_is_read(azure: Path) -> None:
    """Labels and ids are those in images.lst."""
    images = open_folder(azure / "image_directory_train")
    assert len(images.classes) == 10
    assert images.items[0] == ImageItem("image/0_0.png", "digit_0", 0)
    assert check_trainable(images) == []


def write_image_directory(folder: Path, rows: list[dict[str, object]], *, annotated: bool) -> Path:
    """Write a small ImageDirectory as Azure's modules do."""
    folder.mkdir()
    column = {"name": "category", "properties": {"annotation_type": "COCO_classification"}}
    schema = {"columnAttributes": [column] if annotated else []}
    (folder / "_schema.json").write_text(json.dumps(schema))
    (folder / "images.lst").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_row(name: str, **columns: object) -> dict[str, object]:
    """Return one row of an image list."""
    return {"image_info": {"file_name": name}, **columns}


def test_directory_without_annotation_is_not_labelled(tmp_path: Path) -> None:
    """Without an annotation column no image has a label."""
    folder = write_image_directory(
        tmp_path / "d", [make_row("1.png", category="a")], annotated=False
    )
    assert types_of(check_trainable(open_folder(folder))) == {NotLabeledDatasetError}


def test_items_without_label_are_left_out_of_training(tmp_path: Path) -> None:
    """Items with an empty or missing label are dropped, and a note counts them."""
    rows = [make_row("1.png", category="a"), make_row("2.png", category=""), make_row("3.png")]
    images = open_folder(
        write_image_directory(tmp_path / "d", rows, annotated=True)
    ).drop_unlabelled()
    assert [item.name for item in images.items] == ["1.png"]
    assert "2 images without a label" in images.notes[-1]


@pytest.mark.parametrize(
    "line",
    ["not json", "[]", "{}", '{"image_info": {"coco_url": "http://x/1.jpg"}}'],
)
def test_error_of_a_damaged_list_has_the_line(tmp_path: Path, line: str) -> None:
    """The error for an invalid line has its number."""
    folder = write_image_directory(
        tmp_path / "d", [make_row("1.png", category="a")], annotated=True
    )
    with (folder / "images.lst").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidDatasetError, match="line 2"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "a/../../b.png"])
def test_listed_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """Absolute paths and paths with .. are rejected."""
    folder = write_image_directory(tmp_path / "d", [make_row(name, category="a")], annotated=True)
    with pytest.raises(InvalidDatasetError, match="leads out"):
        open_folder(folder)


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(),
)
def test_split_keeps_every_image_once_and_every_class_on_both_sides(
    counts: list[int], fraction: float, seed: int
) -> None:
    """The parts are disjoint, complete and stratified for any sizes."""
    items = tuple(
        ImageItem(f"{label}/{number}.png", str(label))
        for label, count in enumerate(counts)
        for number in range(count)
    )
    whole = ImageSet("made up", Path(), items)
    first, second = split_stratified(whole, second_fraction=fraction, random_seed=seed)
    assert sorted(i.name for i in (*first.items, *second.items)) == sorted(i.name for i in items)
    assert first.classes == second.classes == whole.classes
    for label, count in second.count_classes().items():
        assert abs(count - fraction * counts[int(label)]) <= 1


def test_split_does_not_depend_on_the_order_of_items() -> None:
    """The same names and seed give the same split in any order."""
    items = tuple(ImageItem(f"{n % 3}/{n}.png", str(n % 3)) for n in range(60))
    names = []
    for ordered in (items, items[::-1]):
        _, second = split_stratified(
            ImageSet("", Path(), ordered), second_fraction=0.3, random_seed=7
        )
        names.append({item.name for item in second.items})
    assert names[0] == names[1]


@pytest.mark.parametrize("name", ["{outside}/images.lst", "../outside/images.lst", "/dev/zero"])
@pytest.mark.parametrize("key", ["image_list", "schema"])
def test_named_files_cannot_lead_out_of_the_folder(tmp_path: Path, key: str, name: str) -> None:
    """Files that `_meta.yaml` names outside the folder are rejected, by path or by link."""
    outside = write_image_directory(tmp_path / "outside", [make_row("1.png")], annotated=True)
    folder = write_image_directory(tmp_path / "d", [make_row("1.png")], annotated=True)
    path = name.format(outside=outside)
    (folder / "_meta.yaml").write_text(f"type: ImageDirectory\n{key}: {path}\n")
    with pytest.raises(InvalidDatasetError, match=f"{key} is .*not a file in the folder"):
        open_folder(folder)
    (folder / "link").symlink_to(folder / path)
    (folder / "_meta.yaml").write_text(f"type: ImageDirectory\n{key}: link\n")
    with pytest.raises(InvalidDatasetError, match="leads out of the folder"):
        open_folder(folder)


def test_yaml_bomb_is_rejected(tmp_path: Path) -> None:
    """A name that YAML aliases expand to a gigabyte gives a short error."""
    folder = write_image_directory(tmp_path / "d", [make_row("1.png")], annotated=True)
    doubled = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 26))
    text = f"type: ImageDirectory\na0: &a0 [x]\n{doubled}image_list: *a25\n"
    (folder / "_meta.yaml").write_text(text)
    with pytest.raises(InvalidDatasetError, match="image_list is a list") as raised:
        open_folder(folder)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "schema",
    [
        '{"columnAttributes": ["x"]}',
        '{"columnAttributes": null}',
        '{"columnAttributes": [{"properties": {"annotation_type": "x"}, "name": ["a"]}]}',
        "[" * 100_000,
    ],
    ids=["text", "null", "list", "deep"],
)
def test_damaged_schema_is_rejected(tmp_path: Path, schema: str) -> None:
    """A schema with unexpected JSON raises InvalidDatasetError."""
    folder = write_image_directory(tmp_path / "d", [make_row("1.png")], annotated=True)
    (folder / "_schema.json").write_text(schema)
    with pytest.raises(InvalidDatasetError, match="is damaged"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps(make_row("a//1.png", category="b")), "line 2 lists a/1.png again"),
        (json.dumps({"image_info": {"file_name": ["1.png"]}}), "line 2 is not an image entry"),
        (json.dumps(make_row("\ud800.png")), "line 2 is not an image entry"),
        (json.dumps(make_row("2.png", category="\ud800")), "line 2 is not an image entry"),
        ("[" * 100_000, "line 2 is not an image entry"),
    ],
    ids=["twice", "list", "name", "label", "deep"],
)
def test_invalid_line_is_rejected(tmp_path: Path, line: str, message: str) -> None:
    """Duplicate images, invalid names or labels, and deeply nested JSON are rejected."""
    folder = write_image_directory(
        tmp_path / "d", [make_row("a/1.png", category="a")], annotated=True
    )
    with (folder / "images.lst").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidDatasetError, match=message):
        open_folder(folder)


def test_source_that_is_not_a_folder_is_rejected(tmp_path: Path) -> None:
    """A pipe, a device, a name that is too long and an unknown user are rejected."""
    os.mkfifo(tmp_path / "pipe")
    for source in (str(tmp_path / "pipe"), "/dev/null", "x" * 300, "~nosuchuser/x"):
        with pytest.raises(InvalidDatasetError):
            open_data(source, tmp_path)


def test_folder_without_read_permission_is_rejected(colors: Path, tmp_path: Path) -> None:
    """The folder is opened by a user without permission."""
    code = (
        "import sys; from pathlib import Path; from trialrun.images import open_data\n"
        "import os; os.geteuid() or os.setuid(65534)\n"
        "try: open_data(sys.argv[1], Path('none'))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    colors.chmod(0)
    tmp_path.chmod(0o755)
    try:
        output = subprocess.run(
            [sys.executable, "-c", code, str(colors)], capture_output=True, text=True, check=True
        ).stdout
    finally:
        colors.chmod(0o755)
    assert output.startswith("InvalidDatasetError")
    assert "cannot be read" in output
