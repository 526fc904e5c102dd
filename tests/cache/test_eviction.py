"""Eviction of cache entries, for any entries and limits."""

import tempfile
from functools import partial
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trialrun.cache.eviction import CacheEntry, evict_lru

SIZES = st.integers(0, 1000)


@given(
    cached=st.lists(st.tuples(SIZES, st.integers(0, 50)), max_size=8), num_bytes=SIZES, limit=SIZES
)
def test_eviction_is_minimal_and_lru(
    cached: list[tuple[int, int]], num_bytes: int, limit: int
) -> None:
    """Evicted entries were used before the remaining ones, and none is evicted needlessly."""
    deleted: list[int] = []

    def delete(index: int) -> bool:
        deleted.append(index)
        return True

    entries = [
        CacheEntry(size, used, partial(delete, index)) for index, (size, used) in enumerate(cached)
    ]
    fits = evict_lru(Path(tempfile.gettempdir()), entries, num_bytes, limit_bytes=limit)
    assert fits == (num_bytes <= limit)
    if not fits:
        assert deleted == []
        return
    remaining = [entry for index, entry in enumerate(entries) if index not in deleted]
    remaining_bytes = sum(entry.num_bytes for entry in remaining)
    assert remaining_bytes + num_bytes <= limit
    assert all(
        entries[index].last_used <= entry.last_used for index in deleted for entry in remaining
    )
    if deleted:
        assert remaining_bytes + entries[deleted[-1]].num_bytes + num_bytes > limit
