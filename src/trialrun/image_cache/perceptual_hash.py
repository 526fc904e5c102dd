"""Pictures that look alike though their bytes differ: found by a perceptual hash, then compared.

The hash is the difference hash (Krawetz 2013) as imagehash has it: 64 bits, each saying whether a
pixel of the picture, shrunk to 9 by 8 grays, is brighter than its neighbour. Simple drawings share
it though they differ, so that pairs must also have nearly the same 72 grays.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_BITS_APART = 2  # a picture saved again as JPEG seldom moves by more
MAX_GRAYS_APART = 4.0  # of 255, on average over the 72

_HEIGHT, _WIDTH = 8, 9  # what the difference hash shrinks a picture to: given so, it need not
_HASH_BYTES = 8
_NUM_GRAYS = _HEIGHT * _WIDTH
_LIKENESS_BYTES = _HASH_BYTES + _NUM_GRAYS

# First bit and width of each band: two hashes within MAX_BITS_APART bits share one of three whole.
# The wider a band, the fewer images share it by chance.
_BANDS = ((0, 22), (22, 21), (43, 21))
# Images in one band's bucket beyond which it is passed over; keeps it linear. Of copies planted in
# 200,000 smooth pictures nine in ten were found with 64 and bands of 16 bits, 99 in 100 so.
_MAX_ALIKE = 512
_COMPARED_AT_ONCE = 1 << 20  # pairs: some 100 MB
_SAMPLED = 4  # rows and columns looked at of each gray's: enough to average, a tenth of the time
_MIN_SPREAD = 8  # grays between the darkest and the brightest: a flat picture looks like any other

Sample = NDArray[np.uint8]
PerceptualHashes = NDArray[np.uint8]


def sample_image(pixels: NDArray[np.uint8]) -> Sample:
    """What the likeness of an (S, S, 3) picture is made of: some of its greens, (32 * 36,)."""
    greens: Sample = pixels.reshape(-1).take(_sample_places(pixels.shape[0]))
    return greens


@lru_cache(maxsize=64)
def _sample_places(size: int) -> NDArray[np.int64]:
    """Where the sampled greens of a picture lie: the colour that is most of what is bright."""
    rows, columns = (
        ((np.arange(each * _SAMPLED) + 0.5) * size / (each * _SAMPLED)).astype(np.int64)
        for each in (_HEIGHT, _WIDTH)
    )
    return ((rows[:, None] * size + columns) * 3 + 1).reshape(-1)


def shrink_to_grays(samples: Sequence[Sample | None]) -> bytes:
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


def compute_hashes(grays: bytes) -> PerceptualHashes:
    """(N, 80): what N pictures are compared by, the difference hash of each before its grays.

    Zeros where a picture has too little in it to tell.
    """
    pictures = np.frombuffer(grays, dtype=np.uint8).reshape(-1, _NUM_GRAYS)
    perceptual_hashes = np.zeros((len(pictures), _LIKENESS_BYTES), dtype=np.uint8)
    telling = np.flatnonzero(np.ptp(pictures, axis=1) >= _MIN_SPREAD)
    perceptual_hashes[telling, :_HASH_BYTES] = _hash_differences(pictures[telling])
    perceptual_hashes[telling, _HASH_BYTES:] = pictures[telling]
    return perceptual_hashes


def _hash_differences(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 8): for each of 64 pixels whether its right neighbour is brighter."""
    grays = pictures.reshape(-1, _HEIGHT, _WIDTH)
    brighter = grays[:, :, 1:] > grays[:, :, :-1]
    return np.packbits(brighter.reshape(-1, 8 * _HASH_BYTES), axis=1)


def stack_hashes(perceptual_hashes: bytes) -> PerceptualHashes:
    """(N, 80) uint8 out of N likenesses one after the other."""
    return np.frombuffer(perceptual_hashes, dtype=np.uint8).reshape(-1, _LIKENESS_BYTES)


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Positions of pairs that look alike, and how many images were not compared with all others.

    Those share a part of their hash with so many that it says nothing.
    """

    pairs: list[tuple[int, int]]
    num_skipped: int = 0


def find_near_duplicates(first: PerceptualHashes, second: PerceptualHashes) -> NearDuplicates:
    """The pairs, one of each (N, 80) array, that look alike; `num_unjudged` of the second."""
    telling = [np.flatnonzero(each.any(axis=1)) for each in (first, second)]
    hashes = [_pack_bits(each[rows]) for each, rows in zip((first, second), telling, strict=True)]
    pairs: set[tuple[int, int]] = set()
    unjudged = np.zeros(len(telling[1]), dtype=bool)
    for start, width in _BANDS:
        mask = np.uint64(((1 << width) - 1) << start)
        bucket = _Bucket(hashes[0] & mask, hashes[1] & mask)
        unjudged |= bucket.num_alike > _MAX_ALIKE
        for left, right in bucket.pairs():
            close = np.bitwise_count(hashes[0][left] ^ hashes[1][right]) <= MAX_BITS_APART
            some = telling[0][left[close]], telling[1][right[close]]
            pairs.update(_filter_by_grays(first, second, *some))
    return NearDuplicates(sorted(pairs), int(unjudged.sum()))


def _filter_by_grays(
    first: PerceptualHashes,
    second: PerceptualHashes,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> Iterator[tuple[int, int]]:
    apart = np.abs(first[left, _HASH_BYTES:].astype(np.int16) - second[right, _HASH_BYTES:])
    near = apart.mean(axis=1) <= MAX_GRAYS_APART
    return zip(left[near].tolist(), right[near].tolist(), strict=True)


def _pack_bits(perceptual_hashes: PerceptualHashes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(perceptual_hashes[:, :_HASH_BYTES]).view(np.uint64)[:, 0]


class _Bucket:
    """Which images of two sets have the same key, one band of their hashes."""

    def __init__(self, first: NDArray[np.uint64], second: NDArray[np.uint64]) -> None:
        self._order = np.argsort(first, kind="stable")
        ordered = first[self._order]
        self._low = np.searchsorted(ordered, second, "left")
        self.num_alike = np.searchsorted(ordered, second, "right") - self._low

    def pairs(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Positions in the first and the second set, so many at once as memory should hold."""
        num_alike = np.where(self.num_alike > _MAX_ALIKE, 0, self.num_alike)
        ends = np.cumsum(num_alike)
        total = int(ends[-1]) if len(ends) else 0
        cuts = np.searchsorted(ends, np.arange(0, total, _COMPARED_AT_ONCE), "right")
        for low, high in itertools.pairwise([*cuts.tolist(), len(num_alike)]):
            some = num_alike[low:high]
            right = np.repeat(np.arange(low, high), some)
            within = np.arange(len(right)) - np.repeat(np.cumsum(some) - some, some)
            yield self._order[np.repeat(self._low[low:high], some) + within], right
