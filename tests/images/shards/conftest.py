"""An object store for the tests of shards."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.object_store import FaultyStore, open_store
from trialrun.images.shards.requests import DEFAULT_LIMITS
from trialrun.images.shards.shard_cache import ShardCache

FAST_LIMITS = replace(
    DEFAULT_LIMITS, num_attempts=4, pause_seconds=0.01, silence_seconds=0.4, range_bytes=1000
)


@pytest.fixture(scope="session")
def shared_store() -> Iterator[FaultyStore]:
    """Yield one object store for all tests."""
    with open_store() as store:
        yield store


@pytest.fixture
def store(shared_store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """Yield the object store without faults, as the one that s3:// addresses name."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_store.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    shared_store.num_requests = 0
    yield shared_store
    shared_store.faults, shared_store.repeats_last = [], False


@pytest.fixture
def notes() -> list[str]:
    """Return a list for the notes of the cache."""
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> ShardCache:
    """Return an empty cache of one megabyte."""
    return ShardCache(tmp_path / "shards", 10**6, notes.append, FAST_LIMITS)
