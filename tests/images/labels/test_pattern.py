"""Labels found in the names of images."""

from pathlib import Path

import pytest

from tests.conftest import write_image
from trialrun.config.data import DataConfig
from trialrun.errors import InvalidParameterError
from trialrun.images import open_data


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Write cat.0.png, dog.0.png and odd.png into one folder."""
    for name in ("cat.0.png", "dog.0.png", "odd.png"):
        write_image(tmp_path / "flat" / name, (9, 9, 9))
    return tmp_path / "flat"


def test_label_is_the_group_of_the_pattern(flat: Path) -> None:
    """An image without a match has no label, and a note counts such images."""
    images = open_data(str(flat), flat, config=DataConfig(label_pattern=r"(?P<label>\w+)\.\d"))
    assert [item.label for item in images.items] == ["cat", "dog", None]
    assert "1 images do not match label_pattern, for example 'odd.png'" in images.notes


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(\w+)\.\d", "has no group"),
        ("(", "is not a regular expression"),
        ("(?P<label>x)y", "matches no name"),
    ],
)
def test_unusable_pattern_is_refused(flat: Path, pattern: str, message: str) -> None:
    """The error is that of a wrong parameter."""
    with pytest.raises(InvalidParameterError, match=message):
        open_data(str(flat), flat, config=DataConfig(label_pattern=pattern))


def test_pattern_and_column_exclude_each_other(flat: Path) -> None:
    """Both name the source of the labels."""
    config = DataConfig(label_pattern="(?P<label>x)", label_column="y")
    with pytest.raises(InvalidParameterError, match="both set"):
        open_data(str(flat), flat, config=config)
