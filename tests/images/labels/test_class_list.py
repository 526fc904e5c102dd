"""Class lists: order, renaming, merging and leaving out."""

import csv
import io
import json
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from trialrun.config.data import DataConfig
from trialrun.errors import InvalidParameterError
from trialrun.images import check_trainable, open_data
from trialrun.images.labels.class_list import parse_class_list

LISTS = {
    "classes.txt": "pet = dog\npet = cat\n\nbird\n",
    "classes.csv": "label,class\ndog,pet\ncat,pet\nbird,bird\n",
    "classes.json": '{"pet": ["dog", "cat"], "bird": "bird"}',
}
_CHARACTERS = st.characters(codec="utf-8", exclude_categories=["C", "Z"])
NAMES = st.text(_CHARACTERS, min_size=1, max_size=5).map(partial(unicodedata.normalize, "NFC"))


@pytest.mark.parametrize("name", LISTS)
def test_list_orders_renames_merges_and_leaves_out(tmp_path: Path, name: str) -> None:
    """Each format does all four; a note counts what is left out."""
    root = write_classes(tmp_path / "set", {"bird": 1, "cat": 2, "dog": 3, "fish": 4})
    (tmp_path / name).write_text(LISTS[name])
    images = open_data(str(root), root, config=DataConfig(classes=str(tmp_path / name)))
    assert images.classes == ("pet", "bird")
    assert images.count_classes() == {"pet": 5, "bird": 1}
    assert any("4 images with labels" in note and "fish (4)" in note for note in images.notes)


def test_listed_class_without_images_is_an_error(tmp_path: Path) -> None:
    """A misspelt label does not shrink the set in silence."""
    root = write_classes(tmp_path / "set", {"cat": 2, "dog": 2})
    (tmp_path / "classes.json").write_text('["cat", "dog", "bird"]')
    images = open_data(str(root), root, config=DataConfig(classes=str(tmp_path / "classes.json")))
    assert "no images in class bird" in str(check_trainable(images)[0])


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=5))
@settings(max_examples=50)
def test_formats_are_equivalent(class_of: dict[str, str]) -> None:
    """Any names that are not blank give the same list in each format."""
    pairs = [(class_name, label) for label, class_name in class_of.items()]
    expected = (tuple(dict.fromkeys(class_of.values())), class_of)
    for suffix, content in (
        (".txt", "\n".join(f"{class_name} = {label}" for class_name, label in pairs)),
        (".csv", write_csv(pairs)),
        (".json", "{" + ",".join(f"{json.dumps(a)}: {json.dumps(b)}" for a, b in pairs) + "}"),
    ):
        parsed = parse_class_list(content, suffix, "it")
        assert (parsed.classes, parsed.class_of) == expected


def write_csv(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a CSV text with the columns class and label."""
    file = io.StringIO()
    csv.writer(file).writerows([("class", "label"), *pairs])
    return file.getvalue()


@given(st.text(), st.sampled_from([".txt", ".csv", ".json"]))
@settings(max_examples=100)
def test_any_text_is_a_list_or_an_invalid_parameter(content: str, suffix: str) -> None:
    """No content raises another error, and a list has only classes with a label."""
    try:
        parsed = parse_class_list(content, suffix, "it")
    except InvalidParameterError:
        return
    assert set(parsed.classes) == set(parsed.class_of.values())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "lists no class"),
        ("a.txt", "pet = cat\nanimal = cat", "cat two classes: pet and animal"),
        ("a.csv", "name,class\nx,y", "not label and class"),
        ("a.csv", "label,class\nx", "None is not text"),
        ("a.json", '{"a": null}', "None is not text"),
        ("a.json", '{"a": "x", "b": "x"}', "two classes"),
        ("a.json", "[1]", "1 is not text"),
        ("a.json", "7", "neither a list nor an object"),
    ],
)
def test_invalid_list_is_refused(name: str, content: str, message: str) -> None:
    """The error says what is wrong with the file."""
    with pytest.raises(InvalidParameterError, match=message):
        parse_class_list(content, Path(name).suffix, name)


def test_missing_list_is_an_invalid_parameter(colors: Path) -> None:
    """The error names the setting."""
    with pytest.raises(InvalidParameterError, match="classes=/no/such cannot be read"):
        open_data(str(colors), colors, config=DataConfig(classes="/no/such"))
