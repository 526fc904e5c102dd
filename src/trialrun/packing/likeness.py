"""Pictures that look alike though their bytes differ: found by a perceptual hash, then compared.

The hash is imagehash's difference hash (Krawetz 2013): 64 bits, each saying whether a pixel of the
picture, shrunk to 9 by 8 grays, is brighter than its neighbour. Simple drawings share it though
they differ, so that pairs must also have nearly the same 8 by 8 grays.
"""

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BITS_APART = 2  # a picture saved again as JPEG seldom moves by more
MAX_GRAYS_APART = 4.0  # of 255, on average over the 64
LIKENESS_BYTES = 72  # the hash, then the grays
NO_LIKENESS = bytes(LIKENESS_BYTES)

_BANDS = 4  # of 16 bits: two hashes within 3 bits of each other share one whole
_MAX_ALIKE = 64  # images in one band's bucket beyond which the bucket says nothing; keeps it linear
_SAMPLED = 28  # rows and columns looked at: enough to average, a tenth of the time
_GRAYS = (8, 8)
_MIN_SPREAD = 8  # grays between the darkest and the brightest: a flat picture looks like any other

Likenesses = NDArray[np.uint8]


def likeness_of(pixels: NDArray[np.uint8]) -> bytes:
    """What an (S, S, 3) picture is compared by; zeros where it has too little in it to tell."""
    step = max(pixels.shape[0] // _SAMPLED, 1)
    gray = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).convert("L")
    shrunk = np.asarray(gray.resize(_GRAYS, Image.Resampling.BOX))
    if int(shrunk.max()) - int(shrunk.min()) < _MIN_SPREAD:
        return NO_LIKENESS
    return np.packbits(imagehash.dhash(gray).hash).tobytes() + shrunk.tobytes()


def as_array(likenesses: bytes) -> Likenesses:
    """(N, 72) uint8 out of N likenesses one after the other."""
    return np.frombuffer(likenesses, dtype=np.uint8).reshape(-1, LIKENESS_BYTES)


def near_pairs(first: Likenesses, second: Likenesses) -> list[tuple[int, int]]:
    """Positions of pairs, one of each (N, 72) array, that look alike."""
    hashes = [_hashes(each) for each in (first, second)]
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        left, right = _sharing(hashes[0], hashes[1], band)
        bits = np.bitwise_count(hashes[0][left] ^ hashes[1][right])
        left, right = left[bits <= MAX_BITS_APART], right[bits <= MAX_BITS_APART]
        grays = np.abs(first[left, 8:].astype(np.int16) - second[right, 8:]).mean(axis=1)
        near = (grays <= MAX_GRAYS_APART) & first[left].any(axis=1) & second[right].any(axis=1)
        pairs.update(zip(left[near].tolist(), right[near].tolist(), strict=True))
    return sorted(pairs)


def _hashes(likenesses: Likenesses) -> NDArray[np.uint64]:
    return np.ascontiguousarray(likenesses[:, :8]).view(np.uint64)[:, 0]


def _sharing(
    first: NDArray[np.uint64], second: NDArray[np.uint64], band: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of all pairs whose hashes agree in one band of 16 bits."""
    keys = [(hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF) for hashes in (first, second)]
    order = np.argsort(keys[0], kind="stable")
    ordered = keys[0][order]
    low = np.searchsorted(ordered, keys[1], "left")
    num_alike = np.searchsorted(ordered, keys[1], "right") - low
    num_alike[num_alike > _MAX_ALIKE] = 0
    right = np.repeat(np.arange(len(second)), num_alike)
    within = np.arange(len(right)) - np.repeat(np.cumsum(num_alike) - num_alike, num_alike)
    return order[np.repeat(low, num_alike) + within], right
