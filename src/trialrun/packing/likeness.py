"""Pictures that look alike though their bytes differ: perceptual hashes, and pairs of near ones.

The hash is imagehash's difference hash (Krawetz 2013): 64 bits, each saying whether a pixel of the
picture, shrunk to 9 by 8 grays, is brighter than its left neighbour.
"""

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE = 2  # bits; a picture saved again as JPEG seldom moves by more
NO_LIKENESS = 0

_BANDS = 4  # of 16 bits: two hashes within 3 bits of each other share one whole
_MIN_BITS, _MAX_BITS = 6, 58  # a flat picture or a plain gradient looks like any other
_MAX_ALIKE = 64  # images in one band's bucket beyond which the bucket says nothing; keeps it linear
_SAMPLED = 56  # rows and columns looked at: enough to average, a tenth of the time


def likeness_of(pixels: NDArray[np.uint8]) -> int:
    """The difference hash of an (S, S, 3) picture; 0 where it has too little in it to tell."""
    step = max(pixels.shape[0] // _SAMPLED, 1)
    sampled = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    bits = imagehash.dhash(sampled).hash
    if not _MIN_BITS <= int(bits.sum()) <= _MAX_BITS:
        return NO_LIKENESS
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Positions of pairs, one of each array, whose hashes are within `MAX_DISTANCE` bits."""
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        pairs |= _pairs_of_band(first, second, band)
    return sorted(pairs)


def _pairs_of_band(
    first: NDArray[np.uint64], second: NDArray[np.uint64], band: int
) -> set[tuple[int, int]]:
    keys = [_band_of(hashes, band) for hashes in (first, second)]
    order = np.argsort(keys[0], kind="stable")
    ordered = keys[0][order]
    low = np.searchsorted(ordered, keys[1], "left")
    num_alike = np.searchsorted(ordered, keys[1], "right") - low
    num_alike[(num_alike > _MAX_ALIKE) | (second == NO_LIKENESS)] = 0
    right = np.repeat(np.arange(len(second)), num_alike)
    ends = np.cumsum(num_alike)
    within = np.arange(len(right)) - np.repeat(ends - num_alike, num_alike)
    left = order[np.repeat(low, num_alike) + within]
    distance = np.bitwise_count(first[left] ^ second[right])
    near = (distance <= MAX_DISTANCE) & (first[left] != NO_LIKENESS)
    return set(zip(left[near].tolist(), right[near].tolist(), strict=True))


def _band_of(hashes: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    return (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
