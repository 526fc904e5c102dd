"""Search for the stored images of a dataset."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialrun.image_cache.segments.files import (
    Segment,
    is_intact,
    is_unreadable,
    lease_segment,
    map_keys,
    read_segment,
)
from trialrun.image_cache.segments.keys import Keys, SetKeys

# Bytes of a dataset's segments whose checksums are verified on opening, about 0.1 s. Of more,
# evenly spaced blocks are verified; all where a segment is not known to be synced to the disk.
_CHECKED_BYTES = 256 * 10**6


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the images with K keys are stored: segment and slot, (K,) each; -1 if nowhere."""

    segments: tuple[Segment, ...]
    segment_of_key: NDArray[np.int32]
    slot_of_key: NDArray[np.int64]

    def missing(self) -> NDArray[np.int64]:
        """Return the positions of the keys that are in no segment."""
        return np.flatnonzero(self.segment_of_key < 0)


@dataclass(frozen=True, slots=True)
class FoundSegments:
    """The intact segments that hold images of a dataset, and the folders of damaged ones."""

    segments: tuple[Segment, ...]
    damaged: tuple[Path, ...]


def find_segments(
    folder: Path, variant: str, keys: Keys, *, threads: int, suspects: Collection[Path] = ()
) -> FoundSegments:
    """Find, lease and verify the segments of `variant` below `folder` that hold any of `keys`.

    All of the `suspects` is verified: a sample would miss the damage that an earlier one found.
    """
    is_missing = np.ones(len(keys), dtype=bool)
    segments, damaged = list[Segment](), list[Path]()
    candidates = _rank_candidates(folder, variant, keys)
    max_bytes = _CHECKED_BYTES // max(len(candidates), 1)
    for path, matches in candidates:
        if not is_missing[matches].any():
            continue
        if (segment := read_segment(path)) is not None:
            lease_segment(segment)
        if segment is None or not is_intact(
            segment, threads=threads, max_bytes=None if path in suspects else max_bytes
        ):
            # Another process may have evicted it in the meantime.
            damaged += [path] if path.exists() and not is_unreadable(path) else []
            continue
        segments.append(segment)
        is_missing[matches] = False
    return FoundSegments(tuple(segments), tuple(damaged))


def _rank_candidates(
    folder: Path, variant: str, keys: Keys
) -> list[tuple[Path, NDArray[np.int64]]]:
    """Return segments that hold any of `keys` and the positions of these; the most keys first."""
    candidates = []
    for path in sorted(folder.glob(f"{variant}-*")):
        if not path.suffix and (stored := map_keys(path)) is not None:
            matches, _ = _match_keys(keys, stored)
            if len(matches):
                candidates.append((path, matches))
    return sorted(candidates, key=lambda candidate: -len(candidate[1]))


def _match_keys(keys: Keys, stored: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the keys that are `stored`, and their slots; `keys` are sorted."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    positions = np.minimum(_search_sorted(keys, stored), len(keys) - 1)
    slots = np.flatnonzero(keys[positions] == stored)
    return positions[slots], slots


def _search_sorted(keys: Keys, stored: Keys) -> NDArray[np.int64]:
    """Return where `stored` would be inserted into the sorted `keys`.

    A million strings in random order take 5 s. Their first eight bytes as integers, in ascending
    order, take 0.5 s; they suffice if those of `keys` differ, as those of hashes do.
    """
    prefixes = _read_prefixes(keys)
    if (prefixes[1:] == prefixes[:-1]).any():
        return np.searchsorted(keys, stored)
    wanted = _read_prefixes(stored)
    order = np.argsort(wanted)
    positions = np.empty(len(stored), dtype=np.int64)
    positions[order] = np.searchsorted(prefixes, wanted[order])
    return positions


def _read_prefixes(keys: Keys) -> NDArray[np.uint64]:
    """Return the first eight bytes of each key as an integer, in the order of the keys."""
    words = np.ascontiguousarray(keys).view(">u8")
    return words[:: keys.itemsize // words.itemsize].astype(np.uint64)


def place_keys(keys: Keys, segments: Sequence[Segment]) -> Placement:
    """Look up `keys`, which are sorted, in `segments`; the first one that has a key counts."""
    segment_of_key = np.full(len(keys), -1, dtype=np.int32)
    slot_of_key = np.full(len(keys), -1, dtype=np.int64)
    for number, segment in enumerate(segments):
        positions, slots = _match_keys(keys, segment.keys)
        is_new = segment_of_key[positions] < 0
        segment_of_key[positions[is_new]] = number
        slot_of_key[positions[is_new]] = slots[is_new]
    used = sorted(set(segment_of_key.tolist()) - {-1})
    numbers = np.full(len(segments) + 1, -1, dtype=np.int32)  # the last one is for -1
    numbers[used] = range(len(used))
    return Placement(
        tuple(segments[number] for number in used), numbers[segment_of_key], slot_of_key
    )


def order_missing(keys: SetKeys, placement: Placement) -> NDArray[np.int64]:
    """Return the positions of the keys that are in no segment, in the order of the images."""
    missing = placement.missing()
    return missing[np.argsort(keys.first_rows[missing])]
