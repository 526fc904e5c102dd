"""Files of features in the cache folder: sharing, damage, room and folders that are read-only."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trialrun.cache.eviction import CacheEntry
from trialrun.image_cache.feature_tables import (
    NAME_DIGITS,
    Features,
    list_feature_files,
    load_or_compute_features,
)

NAME = "a" * NAME_DIGITS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counter:
    """Computes the same features at each call, and counts the calls."""

    num_calls = 0

    def __call__(self) -> Features:
        """Return (7, 5) features."""
        self.num_calls += 1
        return np.arange(35, dtype=np.float32).reshape(7, 5)


def list_nothing() -> list[CacheEntry]:
    """List no other entries."""
    return []


def load(compute: Callable[[], Features | None]) -> Features | None:
    """Load the features of `NAME`."""
    return load_or_compute_features(NAME, compute, list_nothing)


def test_stored_features_are_mapped_and_equal(cache: Path) -> None:
    """The second call computes nothing and returns the same values."""
    compute = Counter()
    first, second = load(compute), load(compute)
    assert first is not None
    assert second is not None
    assert compute.num_calls == 1
    np.testing.assert_array_equal(first, second)
    assert not second.flags.writeable


@pytest.mark.parametrize("position", [0, 130, -30, -1])
def test_damaged_features_are_computed_again(cache: Path, position: int) -> None:
    """A flipped bit in the header, the values or the checksum; the file is then replaced."""
    compute = Counter()
    load(compute)
    path = cache / "features" / NAME
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    again = load(compute)
    assert again is not None
    assert compute.num_calls == 2
    np.testing.assert_array_equal(again, compute())
    assert load(pytest.fail) is not None


@pytest.mark.parametrize("num_bytes", [0, 5, 100])
def test_incomplete_features_are_computed_again(cache: Path, num_bytes: int) -> None:
    """A file that was cut off."""
    compute = Counter()
    load(compute)
    os.truncate(cache / "features" / NAME, num_bytes)
    assert load(compute) is not None
    assert compute.num_calls == 2


def test_features_without_room_are_returned_but_not_stored(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache limit of 0."""
    monkeypatch.setenv("TRIALRUN_CACHE_GB", "0")
    compute = Counter()
    assert load(compute) is not None
    assert load(compute) is not None
    assert compute.num_calls == 2
    assert list_feature_files() == []


def test_features_are_returned_if_the_cache_cannot_be_written(cache: Path) -> None:
    """A file is where the folder should be."""
    cache.mkdir()
    (cache / "features").touch()
    assert load(Counter()) is not None


def test_an_error_of_the_computation_is_raised(cache: Path) -> None:
    """An image file that cannot be read, for example; it is not taken for an error of the cache."""

    def fail() -> Features:
        raise FileNotFoundError("photo.jpg")

    with pytest.raises(FileNotFoundError, match="photo"):
        load(fail)


def test_features_can_be_evicted(cache: Path) -> None:
    """They are listed with their size; the mapped values stay readable."""
    features = load(Counter())
    (entry,) = list_feature_files()
    assert entry.num_bytes > 7 * 5 * 4
    assert entry.delete()
    assert list_feature_files() == []
    assert features is not None
    assert features[6, 4] == 34
