"""Columns with several labels per image."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import write_classes
from trialrun.config.data import DataConfig
from trialrun.errors import InvalidDatasetError
from trialrun.images import check_trainable, open_data
from trialrun.images.labels.several import check_single_labels


@pytest.mark.parametrize(
    "labels",
    [
        ["cat|dog", "cat", "dog"],
        ["cat;dog", "bird;fish", "cow"],
        ["cat,dog", "cat", "dog", "bird"],
        ["cat, dog", "dog, bird", "bird, cat"],
        ["No Finding", "Mass|Nodule", "Mass", "Nodule|Mass", "No Finding"],
    ],
    ids=str,
)
def test_lists_in_cells_are_refused(labels: list[str]) -> None:
    """Parts that occur in other cells, or a separator in most cells, show several labels."""
    with pytest.raises(InvalidDatasetError, match="several labels per image"):
        check_single_labels(Counter(labels), "set")


@pytest.mark.parametrize(
    "labels",
    [
        ["tench, Tinca tinca", "crane", "crane, bird", "goldfish, Carassius auratus"],
        ["a|b", "c", "d", "e"],
        ["a,", "b,", ",a"],
        ["c++", "c", "#"],
        ["a"],
        [],
    ],
    ids=str,
)
def test_names_with_separators_are_labels(labels: list[str]) -> None:
    """ImageNet's names have commas, and their parts hardly occur in other names."""
    check_single_labels(Counter(labels), "set")


@pytest.mark.parametrize("layout", ["table", "image_directory"])
def test_a_list_as_label_is_refused(tmp_path: Path, layout: str) -> None:
    """A list in JSON is several labels, in a table and in an ImageDirectory."""
    root = write_classes(tmp_path, {"x": 1})
    if layout == "table":
        row = {"file_name": "x/000.png", "label": ["a", "b"]}
        (root / "metadata.jsonl").write_text(json.dumps(row))
    else:
        annotation = {"name": "category", "properties": {"annotation_type": "x"}}
        (root / "_schema.json").write_text(json.dumps({"columnAttributes": [annotation]}))
        entry = {"image_info": {"file_name": "x/000.png"}, "category": ["a", "b"]}
        (root / "images.lst").write_text(json.dumps(entry))
    with pytest.raises(InvalidDatasetError, match="several labels per image"):
        open_data(str(root), root)


def test_indicator_columns_are_refused_with_their_reason(tmp_path: Path) -> None:
    """One column of 0 and 1 per class: training says why it does not take them for labels."""
    root = write_classes(tmp_path, {"x": 2})
    (root / "metadata.csv").write_text("file_name,cat,dog\nx/000.png,1,1\nx/001.png,0,1\n")
    [error] = check_trainable(open_data(str(root), root))
    assert "columns cat, dog hold 0 or 1 per class: 1 images have several classes" in str(error)


def test_a_class_list_accepts_names_with_separators(tmp_path: Path) -> None:
    """Texts that the list names are classes."""
    root = write_classes(tmp_path / "set", {"x": 3})
    rows = ["file_name,label", "x/000.png,a|b", "x/001.png,a", "x/002.png,b"]
    (root / "metadata.csv").write_text("\n".join(rows))
    (tmp_path / "classes.txt").write_text("a|b\na\nb\n")
    config = DataConfig(classes=str(tmp_path / "classes.txt"))
    assert open_data(str(root), root, config=config).classes == ("a|b", "a", "b")
