"""Pictures that look alike though their bytes differ: found by a perceptual hash, then compared.

The hash is imagehash's difference hash (Krawetz 2013): 64 bits, each saying whether a pixel of the
picture, shrunk to 9 by 8 grays, is brighter than its neighbour. Simple drawings share it though
they differ, so that pairs must also have nearly the same 72 grays.
"""

from collections.abc import Sequence
from functools import lru_cache

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BITS_APART = 2  # a picture saved again as JPEG seldom moves by more
MAX_GRAYS_APART = 4.0  # of 255, on average over the 72

_HEIGHT, _WIDTH = 8, 9  # what the difference hash shrinks a picture to: given so, it need not
_HASH_BYTES = 8
_NUM_GRAYS = _HEIGHT * _WIDTH
LIKENESS_BYTES = _HASH_BYTES + _NUM_GRAYS

_BANDS = 4  # of 16 bits: two hashes within 3 bits of each other share one whole
_MAX_ALIKE = 64  # images in one band's bucket beyond which the bucket says nothing; keeps it linear
_SAMPLED = 4  # rows and columns looked at of each gray's: enough to average, a tenth of the time
_MIN_SPREAD = 8  # grays between the darkest and the brightest: a flat picture looks like any other

Sample = NDArray[np.uint8]
Likenesses = NDArray[np.uint8]


def sample_of(pixels: NDArray[np.uint8]) -> Sample:
    """What the likeness of an (S, S, 3) picture is made of: some of its greens, (32 * 36,)."""
    greens: Sample = pixels.reshape(-1).take(_sampled_places(pixels.shape[0]))
    return greens


@lru_cache(maxsize=64)
def _sampled_places(size: int) -> NDArray[np.int64]:
    """Where the sampled greens of a picture lie: the colour that is most of what is bright."""
    rows, columns = (
        ((np.arange(each * _SAMPLED) + 0.5) * size / (each * _SAMPLED)).astype(np.int64)
        for each in (_HEIGHT, _WIDTH)
    )
    return ((rows[:, None] * size + columns) * 3 + 1).reshape(-1)


def grays_of(samples: Sequence[Sample | None]) -> bytes:
    """Each picture shrunk to 8 by 9 grays, zeros for None, one after the other.

    For many at once: most of the time would else go into numpy's calls.
    """
    grays = np.zeros((len(samples), _NUM_GRAYS), dtype=np.uint8)
    there = [number for number, each in enumerate(samples) if each is not None]
    if there:
        tiles = np.stack([each for each in samples if each is not None])
        tiles = tiles.reshape(-1, _HEIGHT, _SAMPLED, _WIDTH, _SAMPLED)
        sums = tiles.sum(axis=(2, 4), dtype=np.uint16)
        grays[there] = (sums // _SAMPLED**2).reshape(-1, _NUM_GRAYS)
    return grays.tobytes()


def likenesses_of(grays: bytes) -> Likenesses:
    """(N, 80): what N pictures are compared by, the difference hash of each before its grays.

    Zeros where a picture has too little in it to tell.
    """
    pictures = np.frombuffer(grays, dtype=np.uint8).reshape(-1, _NUM_GRAYS)
    likenesses = np.zeros((len(pictures), LIKENESS_BYTES), dtype=np.uint8)
    telling = np.flatnonzero(np.ptp(pictures, axis=1) >= _MIN_SPREAD)
    for number in telling:
        likenesses[number, :_HASH_BYTES] = _hash(pictures[number])
    likenesses[telling, _HASH_BYTES:] = pictures[telling]
    return likenesses


def _hash(grays: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(grays.reshape(_HEIGHT, _WIDTH))
    return np.packbits(imagehash.dhash(image).hash)


def as_array(likenesses: bytes) -> Likenesses:
    """(N, 72) uint8 out of N likenesses one after the other."""
    return np.frombuffer(likenesses, dtype=np.uint8).reshape(-1, LIKENESS_BYTES)


def near_pairs(first: Likenesses, second: Likenesses) -> list[tuple[int, int]]:
    """Positions of pairs, one of each (N, 72) array, that look alike."""
    hashes = [_as_numbers(each) for each in (first, second)]
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        left, right = _sharing(hashes[0], hashes[1], band)
        bits = np.bitwise_count(hashes[0][left] ^ hashes[1][right])
        left, right = left[bits <= MAX_BITS_APART], right[bits <= MAX_BITS_APART]
        grays = np.abs(
            first[left, _HASH_BYTES:].astype(np.int16) - second[right, _HASH_BYTES:]
        ).mean(axis=1)
        near = (grays <= MAX_GRAYS_APART) & first[left].any(axis=1) & second[right].any(axis=1)
        pairs.update(zip(left[near].tolist(), right[near].tolist(), strict=True))
    return sorted(pairs)


def _as_numbers(likenesses: Likenesses) -> NDArray[np.uint64]:
    return np.ascontiguousarray(likenesses[:, :_HASH_BYTES]).view(np.uint64)[:, 0]


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
