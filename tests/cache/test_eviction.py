"""What has to go so that a pack fits, whatever is kept."""

import tempfile
from functools import partial
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trialrun.cache.eviction import CacheEntry, evict_lru

SIZES = st.integers(0, 1000)


@given(kept=st.lists(st.tuples(SIZES, st.integers(0, 50)), max_size=8), asked=SIZES, limit=SIZES)
def test_no_more_goes_than_must(kept: list[tuple[int, int]], asked: int, limit: int) -> None:
    """What stays fits beside what is asked, and nothing was spared that was used longer ago."""
    gone: list[int] = []
    things = [
        CacheEntry(size, used, partial(gone.append, place))
        for place, (size, used) in enumerate(kept)
    ]
    has_room = evict_lru(Path(tempfile.gettempdir()), things, asked, limit_bytes=limit)
    assert has_room == (asked <= limit)
    if not has_room:
        assert gone == []
        return
    stays = [each for place, each in enumerate(things) if place not in gone]
    assert sum(each.num_bytes for each in stays) + asked <= limit
    assert all(things[place].used <= each.used for place in gone for each in stays)
    if gone:
        with_the_last = sum(each.num_bytes for each in stays) + things[gone[-1]].num_bytes
        assert with_the_last + asked > limit
