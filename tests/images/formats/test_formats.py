"""Layouts and labels, judged by names before any pixel is read."""

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


def opened(folder: Path) -> ImageSet:
    """The set in a folder; the cache is not needed for folders."""
    return open_data(str(folder), folder)


def kinds(errors: Sequence[TrialrunError]) -> set[type[TrialrunError]]:
    """The errors' types."""
    return {type(error) for error in errors}


def test_classes_come_by_name_and_sorted(tmp_path: Path) -> None:
    """The order of folders on disk does not matter."""
    write_classes(tmp_path, {"zebra": 2, "ant": 3})
    images = opened(tmp_path)
    assert images.classes == ("ant", "zebra")
    assert images.counts() == {"ant": 3, "zebra": 2}


def test_system_files_make_no_class(tmp_path: Path) -> None:
    """Checkpoint folders of notebooks and of archives are ignored."""
    write_classes(tmp_path, {"a": 2, "b": 2, ".ipynb_checkpoints": 1, "__MACOSX": 1})
    (tmp_path / "a" / ".DS_Store").touch()
    (tmp_path / "a" / "Thumbs.db").touch()
    assert opened(tmp_path).counts() == {"a": 2, "b": 2}


def test_unlabelled_images_are_not_labelled_data(tmp_path: Path) -> None:
    """Images with no class folder cannot be learned from."""
    write_image(tmp_path / "one.png", (1, 2, 3))
    assert kinds(check_trainable(opened(tmp_path))) == {NotLabeledDatasetError}


def test_one_class_is_refused(tmp_path: Path) -> None:
    """A classifier needs two."""
    errors = check_trainable(opened(write_classes(tmp_path, {"only": 3})))
    assert "one class only: only" in str(errors[0])


def test_empty_class_is_named(tmp_path: Path) -> None:
    """A class folder without images is told by name."""
    write_classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "hollow").mkdir()
    errors = check_trainable(opened(tmp_path))
    assert kinds(errors) == {InvalidDatasetError}
    assert "hollow" in str(errors[0])


def test_missing_folder_says_where_it_was_looked_for() -> None:
    """A relative path is shown with the folder it was taken from."""
    with pytest.raises(InvalidDatasetError, match=r"looked in"):
        open_data("no/such/folder", Path())


def test_both_differences_of_the_classes_are_told(tmp_path: Path) -> None:
    """Classes that either set lacks are listed with the set they are in."""
    train = opened(write_classes(tmp_path / "t", {"a": 1, "b": 1}))
    valid = opened(write_classes(tmp_path / "v", {"b": 1, "c": 1}))
    (error,) = check_same_classes(train, valid)
    assert "only in validation" in str(error)
    assert "only in training" in str(error)


def test_labels_map_by_name_not_by_place() -> None:
    """A class keeps its index where a set is ordered otherwise."""
    items = [ImageItem("1", "b"), ImageItem("2", "a")]
    assert label_indices(items, ("a", "b")) == [1, 0]


def test_digits_are_real_files(cache_folder: Path) -> None:
    """The sample is written out once, as 1,797 PNG files of 10 classes."""
    images = open_data("sample:digits", cache_folder)
    assert (len(images), len(images.classes)) == (1797, 10)
    first = images.path_of(images.items[0])
    assert first.read_bytes().startswith(b"\x89PNG")


def test_azure_directory_is_read_by_its_list(azure: Path) -> None:
    """Labels come from images.lst, ids are Azure's own."""
    images = opened(azure / "image_directory_train")
    assert len(images.classes) == 10
    assert images.items[0] == ImageItem("image/0_0.png", "digit_0", 0)
    assert check_trainable(images) == []


def image_directory(folder: Path, rows: list[dict[str, object]], *, annotated: bool) -> Path:
    """A small ImageDirectory as Azure's modules write one."""
    folder.mkdir()
    column = {"name": "category", "properties": {"annotation_type": "COCO_classification"}}
    schema = {"columnAttributes": [column] if annotated else []}
    (folder / "_schema.json").write_text(json.dumps(schema))
    (folder / "images.lst").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(name: str, **more: object) -> dict[str, object]:
    """One line of an image list."""
    return {"image_info": {"file_name": name}, **more}


def test_directory_without_annotation_is_not_labelled(tmp_path: Path) -> None:
    """Without an annotation column nothing has a label."""
    folder = image_directory(tmp_path / "d", [row("1.png", category="a")], annotated=False)
    assert kinds(check_trainable(opened(folder))) == {NotLabeledDatasetError}


def test_items_without_label_are_left_out_of_training(tmp_path: Path) -> None:
    """An empty or absent label makes an item unlabelled, which a note counts."""
    rows = [row("1.png", category="a"), row("2.png", category=""), row("3.png")]
    images = opened(image_directory(tmp_path / "d", rows, annotated=True)).labelled()
    assert [item.name for item in images.items] == ["1.png"]
    assert "2 images without a label" in images.notes[-1]


@pytest.mark.parametrize(
    "line",
    ["not json", "[]", "{}", '{"image_info": {"coco_url": "http://x/1.jpg"}}'],
)
def test_damaged_list_is_told_by_line(tmp_path: Path, line: str) -> None:
    """A line that is no image entry is named by its number."""
    folder = image_directory(tmp_path / "d", [row("1.png", category="a")], annotated=True)
    with (folder / "images.lst").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidDatasetError, match="line 2"):
        opened(folder)


@pytest.mark.parametrize("name", ["../out.png", "/etc/passwd", "a/../../b.png"])
def test_list_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    """A path with .. or an absolute one is refused."""
    folder = image_directory(tmp_path / "d", [row(name, category="a")], annotated=True)
    with pytest.raises(InvalidDatasetError, match="leads out"):
        opened(folder)


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(),
)
def test_split_keeps_every_image_once_and_every_class_on_both_sides(
    counts: list[int], fraction: float, seed: int
) -> None:
    """Whatever the sizes, the parts are disjoint, complete and stratified."""
    items = tuple(
        ImageItem(f"{label}/{number}.png", str(label))
        for label, count in enumerate(counts)
        for number in range(count)
    )
    whole = ImageSet("made up", Path(), items)
    first, second = split_stratified(whole, second_fraction=fraction, random_seed=seed)
    assert sorted(i.name for i in first.items + second.items) == sorted(i.name for i in items)
    assert first.classes == second.classes == whole.classes
    for label, count in second.counts().items():
        assert abs(count - fraction * counts[int(label)]) <= 1


def test_split_does_not_depend_on_the_order_of_listing() -> None:
    """The same names and seed are cut alike on any file system."""
    items = tuple(ImageItem(f"{n % 3}/{n}.png", str(n % 3)) for n in range(60))
    one = ImageSet("", Path(), items)
    other = ImageSet("", Path(), items[::-1])
    cuts = [split_stratified(s, second_fraction=0.3, random_seed=7)[1] for s in (one, other)]
    assert {i.name for i in cuts[0].items} == {i.name for i in cuts[1].items}


@pytest.mark.parametrize("name", ["{outside}/images.lst", "../outside/images.lst", "/dev/zero"])
@pytest.mark.parametrize("key", ["image_list", "schema"])
def test_the_lists_lie_in_the_folder(tmp_path: Path, key: str, name: str) -> None:
    """What `_meta.yaml` names elsewhere is not read, be it by a path or by a link."""
    outside = image_directory(tmp_path / "outside", [row("1.png")], annotated=True)
    folder = image_directory(tmp_path / "d", [row("1.png")], annotated=True)
    path = name.format(outside=outside)
    (folder / "_meta.yaml").write_text(f"type: ImageDirectory\n{key}: {path}\n")
    with pytest.raises(InvalidDatasetError, match=f"{key} is .*no file in the folder"):
        opened(folder)
    (folder / "link").symlink_to(folder / path)
    (folder / "_meta.yaml").write_text(f"type: ImageDirectory\n{key}: link\n")
    with pytest.raises(InvalidDatasetError, match="leads out of the folder"):
        opened(folder)


def test_a_list_of_aliases_is_refused_in_a_line(tmp_path: Path) -> None:
    """YAML that would grow to a gigabyte as text is no file name."""
    folder = image_directory(tmp_path / "d", [row("1.png")], annotated=True)
    doubled = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 26))
    text = f"type: ImageDirectory\na0: &a0 [x]\n{doubled}image_list: *a25\n"
    (folder / "_meta.yaml").write_text(text)
    with pytest.raises(InvalidDatasetError, match="image_list is a list") as raised:
        opened(folder)
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
def test_a_damaged_schema_is_told(tmp_path: Path, schema: str) -> None:
    """Whatever JSON it holds, the answer is one of our errors."""
    folder = image_directory(tmp_path / "d", [row("1.png")], annotated=True)
    (folder / "_schema.json").write_text(schema)
    with pytest.raises(InvalidDatasetError, match="is damaged"):
        opened(folder)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(row("a//1.png", category="b")), "line 2 names a/1.png again"),
        (json.dumps({"image_info": {"file_name": ["1.png"]}}), "line 2 is no image entry"),
        (json.dumps(row("\ud800.png")), "line 2 is no image entry"),
        (json.dumps(row("2.png", category="\ud800")), "line 2 is no image entry"),
        ("[" * 100_000, "line 2 is no image entry"),
    ],
    ids=["twice", "list", "name", "label", "deep"],
)
def test_a_line_that_cannot_be_meant_is_told(tmp_path: Path, line: str, said: str) -> None:
    """An image twice, a name or a label that no file can have, a line nested without end."""
    folder = image_directory(tmp_path / "d", [row("a/1.png", category="a")], annotated=True)
    with (folder / "images.lst").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidDatasetError, match=said):
        opened(folder)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    """A pipe, a device, a name that is too long, a user that there is not."""
    os.mkfifo(tmp_path / "pipe")
    for source in (str(tmp_path / "pipe"), "/dev/null", "x" * 300, "~nosuchuser/x"):
        with pytest.raises(InvalidDatasetError):
            open_data(source, tmp_path)


def test_a_folder_that_may_not_be_read_is_told(colors: Path, tmp_path: Path) -> None:
    """By another user, whom its rights keep out."""
    code = (
        "import sys; from pathlib import Path; from trialrun.images import open_data\n"
        "import os; os.geteuid() or os.setuid(65534)\n"
        "try: open_data(sys.argv[1], Path('none'))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    colors.chmod(0)
    tmp_path.chmod(0o755)
    try:
        said = subprocess.run(
            [sys.executable, "-c", code, str(colors)], capture_output=True, text=True, check=True
        ).stdout
    finally:
        colors.chmod(0o755)
    assert said.startswith("InvalidDatasetError")
    assert "cannot be read" in said
