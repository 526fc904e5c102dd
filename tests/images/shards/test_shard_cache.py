"""Shards from a real object store with faults, in a bounded folder."""

import os
import threading
import time
from pathlib import Path

import pytest

from tests.images.shards.conftest import FAST_LIMITS
from tests.object_store import ERROR, RESET, SHORT, SLOW, TRUNCATED, FaultyStore
from trialrun.errors import InvalidDatasetError, StorageError
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile, list_shards

CONTENT = os.urandom(3500)


def _list_one(address: str) -> ShardFile:
    (shard,) = list_shards(address, FAST_LIMITS)
    return shard


def test_a_remote_shard_is_downloaded_once(store: FaultyStore, cache: ShardCache) -> None:
    """A second use reads the copy on this machine."""
    shard = _list_one(store.put("once/a.tar", CONTENT))
    for _ in range(2):
        with cache.hold(shard) as path:
            assert path.read_bytes() == CONTENT
            assert path.name == "a.tar"
    assert cache.num_downloads == 1


@pytest.mark.parametrize("fault", [ERROR, RESET, SHORT, TRUNCATED, SLOW])
def test_a_passing_fault_is_repeated_and_counted(
    fault: str, store: FaultyStore, cache: ShardCache, notes: list[str]
) -> None:
    """Only the range that failed is requested again; the shard is whole, and a note counts."""
    shard = _list_one(store.put(f"{fault}/a.tar", CONTENT))
    store.slow_seconds, store.faults = 0.6, ["", fault, fault, ""]
    with cache.hold(shard) as path:
        assert path.read_bytes() == CONTENT
    assert store.num_requests == 4 + 2
    # The HTTP client itself repeats a request once on a connection that was closed.
    num_retries = cache.num_retries
    assert num_retries == 2 or (fault == RESET and num_retries == 1)
    (note,) = notes
    assert note.startswith(f"{shard.address}: {num_retries} requests were repeated, the last one")


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (ERROR, StorageError, "cannot be read, 4 times"),
        (RESET, StorageError, "cannot be read, 4 times"),
        (TRUNCATED, InvalidDatasetError, "is truncated, 4 times: 500 of 1,000 bytes"),
    ],
)
def test_a_lasting_fault_is_an_error_that_names_the_shard(
    fault: str, error: type[Exception], text: str, store: FaultyStore, cache: ShardCache
) -> None:
    """After all attempts the error says what happened; nothing of the shard stays."""
    shard = _list_one(store.put(f"lasting-{fault}/a.tar", CONTENT))
    store.faults, store.repeats_last = [fault], True
    with pytest.raises(error) as raised, cache.hold(shard):
        pass
    assert str(raised.value).startswith(f"{shard.address} {text}")
    assert "secret-of-the-test" not in str(raised.value)
    assert not list(cache.folder.rglob("*.tar"))


def test_a_shard_that_vanished_is_named(store: FaultyStore, cache: ShardCache) -> None:
    """A shard that was listed and then deleted is an error at once, without repetitions."""
    shard = _list_one(store.put("gone/a.tar", CONTENT))
    store.delete("gone/a.tar")
    with pytest.raises(InvalidDatasetError, match=r"s3://data/gone/a.tar does not exist"):
        cache.hold(shard).__enter__()
    assert store.num_requests == 1


def test_a_shard_that_changed_is_refused(store: FaultyStore, cache: ShardCache) -> None:
    """Other content under the same name would give other images at the indexed offsets."""
    shard = _list_one(store.put("changed/a.tar", CONTENT))
    store.put("changed/a.tar", CONTENT[::-1])
    with pytest.raises(InvalidDatasetError, match="changed after it was listed"):
        cache.hold(shard).__enter__()


def test_a_local_shard_is_read_in_place(tmp_path: Path, cache: ShardCache) -> None:
    """Nothing is copied; a change after listing is an error."""
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    shard = _list_one(str(path))
    with cache.hold(shard) as held:
        assert held == path
    path.write_bytes(CONTENT[1:])
    with pytest.raises(InvalidDatasetError, match="changed after it was listed"):
        cache.hold(shard).__enter__()


def test_the_cache_is_bounded_and_keeps_shards_in_use(
    store: FaultyStore, cache: ShardCache
) -> None:
    """The least recently used shard makes room; without an idle one, the error names the limit."""
    cache.limit_bytes = 2 * len(CONTENT)
    shards = [_list_one(store.put(f"bounded/{name}.tar", CONTENT)) for name in "abc"]
    with cache.hold(shards[0]):
        for shard in shards[1:]:
            with cache.hold(shard):
                pass
        names = sorted(path.name for path in cache.folder.rglob("*.tar"))
        assert names == ["a.tar", "c.tar"]
        with (
            cache.hold(shards[2]),
            pytest.raises(StorageError, match="7e-06 GB of shards in use"),
        ):
            cache.hold(shards[1]).__enter__()


def test_two_caches_of_one_folder_share_a_download(store: FaultyStore, cache: ShardCache) -> None:
    """Processes that need the same shard at once download it once."""
    shard = _list_one(store.put("shared/a.tar", CONTENT))
    other = ShardCache(cache.folder, cache.limit_bytes, limits=FAST_LIMITS)

    def use(one: ShardCache) -> None:
        with one.hold(shard) as path:
            assert path.read_bytes() == CONTENT

    threads = [threading.Thread(target=use, args=(one,)) for one in (cache, other, cache, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.num_downloads + other.num_downloads == 1


def test_prefetched_shards_are_there_when_they_are_needed(
    store: FaultyStore, cache: ShardCache
) -> None:
    """Shards announced ahead are downloaded in the background."""
    shards = [_list_one(store.put(f"ahead/{name}.tar", CONTENT)) for name in "ab"]
    cache.prefetch(shards)
    deadline = time.monotonic() + 10
    while cache.num_downloads < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    store.faults, store.repeats_last = [ERROR], True
    for shard in shards:
        with cache.hold(shard) as path:
            assert path.read_bytes() == CONTENT


def test_what_a_killed_download_left_is_removed(store: FaultyStore, cache: ShardCache) -> None:
    """An unfinished copy neither counts against the limit nor is taken for the shard."""
    shard = _list_one(store.put("killed/a.tar", CONTENT))
    with cache.hold(shard) as path:
        entry = path.parent
    left = cache.folder / f".{entry.name}.0123456789ab"
    entry.rename(left)
    (left / "a.tar").write_bytes(CONTENT[:100] + bytes(len(CONTENT) - 100))
    cache.limit_bytes = len(CONTENT)
    with cache.hold(shard) as path:
        assert path.read_bytes() == CONTENT
    assert not left.exists()
