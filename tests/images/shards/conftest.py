"""An object store for the tests of shards."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.object_store import shared_store, store
from trialrun.images.shards.requests import DEFAULT_LIMITS
from trialrun.images.shards.shard_cache import ShardCache

__all__ = ["shared_store", "store"]  # fixtures

FAST_LIMITS = replace(
    DEFAULT_LIMITS, num_attempts=4, pause_seconds=0.01, silence_seconds=0.4, range_bytes=1000
)


@pytest.fixture
def notes() -> list[str]:
    """Return a list for the notes of the cache."""
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> ShardCache:
    """Return an empty cache of one megabyte."""
    return ShardCache(tmp_path / "shards", 10**6, notes.append, FAST_LIMITS)
