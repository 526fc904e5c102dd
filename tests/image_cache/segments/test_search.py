"""Look-up of keys, for any keys and stored keys."""

import hashlib
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trialrun.image_cache.segments.files import RECORD_TYPE, Segment
from trialrun.image_cache.segments.keys import KEY_TYPE, Keys
from trialrun.image_cache.segments.search import place_keys

# Hashes of few numbers, and keys that share their first eight bytes with others or end in zeros.
KEYS = st.one_of(
    st.integers(0, 30).map(lambda number: hashlib.sha256(bytes([number])).digest()),
    st.integers(1, 5).map(lambda number: bytes(31) + bytes([number])),
    st.integers(0, 5).map(lambda number: b"\xff" * 8 + bytes([number]) + bytes(23)),
)


def make_array(keys: list[bytes]) -> Keys:
    """Return keys as an array."""
    return np.frombuffer(b"".join(keys), dtype=KEY_TYPE)


def make_segment(keys: list[bytes]) -> Segment:
    """Return a segment with these keys and without images."""
    array = make_array(keys)
    return Segment(
        Path(), np.zeros(0, np.uint8), array, np.zeros(len(array), RECORD_TYPE), reasons={}
    )


@settings(max_examples=60)
@given(wanted=st.sets(KEYS), stored=st.lists(st.lists(KEYS, unique=True), max_size=3))
def test_keys_are_found_where_they_are_stored(
    wanted: set[bytes], stored: list[list[bytes]]
) -> None:
    """Each key is found in the first segment that has it, and no other is."""
    segments = [make_segment(keys) for keys in stored]
    keys = sorted(wanted)
    placement = place_keys(make_array(keys), segments)
    places = zip(placement.segment_of_key.tolist(), placement.slot_of_key.tolist(), strict=True)
    for key, (segment, slot) in zip(keys, places, strict=True):
        expected = next(
            (number for number, segment_keys in enumerate(stored) if key in segment_keys), None
        )
        if expected is None:
            assert segment == -1
        else:
            assert placement.segments[segment] is segments[expected]
            assert slot == stored[expected].index(key)
