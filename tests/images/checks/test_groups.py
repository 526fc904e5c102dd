"""Groups of images, and splits that keep them together."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import write_classes
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.images import ImageItem, ImageSet, open_data, split_stratified
from trialrun.images.checks.groups import find_shared_groups, group_by_pattern

Rows = Sequence[tuple[str, str | None]]
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 12).map(str))),
    min_size=2,
    max_size=80,
)


def make_images(rows: Rows) -> ImageSet:
    """Create an image set from (label, group) rows."""
    items = [
        ImageItem(f"{label}/{n}.png", label, group=group) for n, (label, group) in enumerate(rows)
    ]
    return ImageSet("set", Path(), tuple(items))


@given(rows=ROWS, fraction=st.floats(0.05, 0.95), seed=st.integers())
def test_groups_stay_together(rows: Rows, fraction: float, seed: int) -> None:
    """Every image and group is on one side and every class on both, or the split is rejected."""
    images = make_images(rows)
    try:
        first, second = split_stratified(images, second_fraction=fraction, random_seed=seed)
    except InvalidDatasetError:
        return
    assert sorted(i.name for part in (first, second) for i in part.items) == sorted(
        item.name for item in images.items
    )
    assert first.classes == second.classes == images.classes
    assert find_shared_groups(first, second) == ()


@given(rows=ROWS, seed=st.integers())
def test_split_does_not_depend_on_the_order_of_images(rows: Rows, seed: int) -> None:
    """Images in reverse order are split in the same way."""
    images = make_images(rows)
    reversed_images = ImageSet("set", Path(), images.items[::-1])
    try:
        _, second = split_stratified(images, second_fraction=0.3, random_seed=seed)
    except InvalidDatasetError:
        return
    _, again = split_stratified(reversed_images, second_fraction=0.3, random_seed=seed)
    assert {item.name for item in second.items} == {item.name for item in again.items}


@pytest.mark.parametrize("seed", range(5))
def test_split_by_groups_meets_the_fraction(seed: int) -> None:
    """With forty groups of five, exactly a fifth of every class is in the second set."""
    rows = [("ab"[group % 2], f"g{group}") for group in range(40) for _ in range(5)]
    _, second = split_stratified(make_images(rows), second_fraction=0.2, random_seed=seed)
    assert second.count_classes() == {"a": 20, "b": 20}


def test_class_with_one_group_cannot_be_split() -> None:
    """A class with one group cannot be on both sides."""
    rows = [("a", "p1"), ("a", "p1"), ("b", "p2"), ("b", "p3")]
    with pytest.raises(InvalidDatasetError, match="class a has too few groups"):
        split_stratified(make_images(rows), second_fraction=0.5, random_seed=1)


def test_pattern_finds_the_group_in_the_name() -> None:
    """The group is the first capture group, else the whole match, else None."""
    items = tuple(ImageItem(name, "a") for name in ("a/p01_1.png", "a/p01_2.png", "a/other.png"))
    images = ImageSet("set", Path(), items)
    grouped = group_by_pattern(images, r"p(\d+)_")
    assert [item.group for item in grouped.items] == ["01", "01", None]
    assert group_by_pattern(images, r"p\d+").items[0].group == "p01"
    assert "1 images do not match" in grouped.notes[0]
    for pattern in ("(", "nowhere"):
        with pytest.raises(InvalidParameterError, match="group_pattern"):
            group_by_pattern(images, pattern)


def test_empty_match_is_not_a_group() -> None:
    """Images whose names match with empty text do not form one group."""
    images = ImageSet("set", Path(), (ImageItem("p2_/1.png", "a"), ImageItem("b/3.png", "b")))
    assert [item.group for item in group_by_pattern(images, r"p?\d*").items] == ["p2", None]


def test_column_gives_the_group(tmp_path: Path) -> None:
    """A metadata table has columns; a column is an error for class folders."""
    folder = write_classes(tmp_path / "set", {"x": 4})
    rows = "".join(f"x/00{n}.png,{'ab'[n % 2]},p{n // 2}\n" for n in range(4))
    with pytest.raises(InvalidParameterError, match="has no columns"):
        open_data(str(folder), tmp_path, group_column="patient")
    (folder / "metadata.csv").write_text("file_name,label,patient\n" + rows)
    images = open_data(str(folder), tmp_path, group_column="patient")
    groups = defaultdict(set)
    for item in images.items:
        groups[item.group].add(item.name)
    assert groups == {"p0": {"x/000.png", "x/001.png"}, "p1": {"x/002.png", "x/003.png"}}
    with pytest.raises(InvalidParameterError, match="group_column=nurse"):
        open_data(str(folder), tmp_path, group_column="nurse")
