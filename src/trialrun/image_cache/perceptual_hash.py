"""Near duplicates: images that look alike though their bytes differ.

Candidate pairs come from the difference hash (Krawetz 2013) as imagehash computes it: the image is
shrunk to 9 by 8 grays, and each of 64 bits says whether a pixel is darker than its right neighbour.
Simple drawings can share a hash though they differ, so a pair's 72 grays must be close, too.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_BITS_APART = 2  # saving an image again as JPEG seldom changes more bits
MAX_GRAYS_APART = 4.0  # of 255, mean over the 72 grays

_HEIGHT, _WIDTH = 8, 9  # the size to which the difference hash shrinks an image
_HASH_BYTES = 8
_NUM_GRAYS = _HEIGHT * _WIDTH
_ROW_BYTES = _HASH_BYTES + _NUM_GRAYS

# First bit and width of each band. Hashes within MAX_BITS_APART = 2 bits are equal in at least one
# of three bands. The wider a band, the fewer images share it by chance.
_BANDS = ((0, 22), (22, 21), (43, 21))
# Larger buckets (images that share a band) are skipped, which keeps the search linear. Of copies
# planted in 200,000 smooth images, 99 % were found with this limit; 90 % with a limit of 64 and
# bands of 16 bits.
_MAX_BUCKET_SIZE = 512
_PAIRS_PER_CHUNK = 1 << 20  # about 100 MB
_SAMPLES_PER_GRAY = 4  # rows and columns sampled for each gray: a tenth of the time of all pixels
_MIN_SPREAD = 8  # grays between the darkest and the brightest; flatter images all look alike

Sample = NDArray[np.uint8]
PerceptualHashes = NDArray[np.uint8]


def sample_image(
    pixels: NDArray[np.uint8], width_share: float = 1.0, height_share: float = 1.0
) -> Sample:
    """Return the green values from which an (S, S, 3) image's hash is computed, (32 * 36,).

    They are from the central part of the image, with these shares of its width and height.
    """
    size = pixels.shape[0]
    if width_share == height_share == 1:
        greens: Sample = pixels.reshape(-1).take(_sample_indices(size))
        return greens
    return pixels.reshape(-1).take(_compute_indices(size, width_share, height_share))


@lru_cache(maxsize=64)
def _sample_indices(size: int) -> NDArray[np.int64]:
    return _compute_indices(size, 1.0, 1.0)


def _compute_indices(size: int, width_share: float, height_share: float) -> NDArray[np.int64]:
    """Return the flat indices of the samples; green contributes most to brightness."""
    rows, columns = (
        ((np.arange(num) + 0.5) * share * size / num + (1 - share) / 2 * size).astype(np.int64)
        for num, share in (
            (_HEIGHT * _SAMPLES_PER_GRAY, height_share),
            (_WIDTH * _SAMPLES_PER_GRAY, width_share),
        )
    )
    return ((rows[:, None] * size + columns) * 3 + 1).reshape(-1)


def shrink_to_grays(samples: Sequence[Sample | None]) -> bytes:
    """Return the 8 by 9 grays of each image, concatenated; zeros for None.

    Takes many images at once, as calling numpy for each would take most of the time.
    """
    grays = np.zeros((len(samples), _NUM_GRAYS), dtype=np.uint8)
    rows = [row for row, sample in enumerate(samples) if sample is not None]
    if rows:
        tiles = np.stack([sample for sample in samples if sample is not None])
        tiles = tiles.reshape(-1, _HEIGHT, _SAMPLES_PER_GRAY, _WIDTH, _SAMPLES_PER_GRAY)
        sums = tiles.sum(axis=(2, 4), dtype=np.uint16)
        grays[rows] = (sums // _SAMPLES_PER_GRAY**2).reshape(-1, _NUM_GRAYS)
    return grays.tobytes()


def compute_hashes(grays: bytes) -> PerceptualHashes:
    """Return the perceptual hashes of N images, (N, 80): difference hash, then grays.

    A row is zero if its image has too little contrast to be compared.
    """
    images = np.frombuffer(grays, dtype=np.uint8).reshape(-1, _NUM_GRAYS)
    hashes = np.zeros((len(images), _ROW_BYTES), dtype=np.uint8)
    comparable = np.flatnonzero(np.ptp(images, axis=1) >= _MIN_SPREAD)
    hashes[comparable, :_HASH_BYTES] = _hash_differences(images[comparable])
    hashes[comparable, _HASH_BYTES:] = images[comparable]
    return hashes


def _hash_differences(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (N, 8) bytes: for each of 64 pixels whether its right neighbour is brighter."""
    grays = images.reshape(-1, _HEIGHT, _WIDTH)
    is_brighter = grays[:, :, 1:] > grays[:, :, :-1]
    return np.packbits(is_brighter.reshape(-1, 8 * _HASH_BYTES), axis=1)


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Positions of pairs that look alike, and the number of images not compared with all others.

    Such an image shares a band of its hash with so many others that the band says nothing.
    """

    pairs: list[tuple[int, int]]
    num_skipped: int = 0


def find_near_duplicates(first: PerceptualHashes, second: PerceptualHashes) -> NearDuplicates:
    """Find pairs of a row of `first` and a row of `second`, each (N, 80), that look alike.

    `num_skipped` counts images of `second`.
    """
    rows = [np.flatnonzero(hashes.any(axis=1)) for hashes in (first, second)]
    bits = [_pack_bits(first[rows[0]]), _pack_bits(second[rows[1]])]
    pairs: set[tuple[int, int]] = set()
    is_skipped = np.zeros(len(rows[1]), dtype=bool)
    for start, width in _BANDS:
        mask = np.uint64(((1 << width) - 1) << start)
        matches = _BandMatches(bits[0] & mask, bits[1] & mask)
        is_skipped |= matches.num_matches > _MAX_BUCKET_SIZE
        for left, right in matches.pairs():
            is_close = np.bitwise_count(bits[0][left] ^ bits[1][right]) <= MAX_BITS_APART
            candidates = rows[0][left[is_close]], rows[1][right[is_close]]
            pairs.update(_filter_by_grays(first, second, *candidates))
    return NearDuplicates(sorted(pairs), int(is_skipped.sum()))


def _filter_by_grays(
    first: PerceptualHashes,
    second: PerceptualHashes,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> Iterator[tuple[int, int]]:
    differences = np.abs(first[left, _HASH_BYTES:].astype(np.int16) - second[right, _HASH_BYTES:])
    is_near = differences.mean(axis=1) <= MAX_GRAYS_APART
    return zip(left[is_near].tolist(), right[is_near].tolist(), strict=True)


def _pack_bits(hashes: PerceptualHashes) -> NDArray[np.uint64]:
    """Return the difference hashes as one integer per image."""
    return np.ascontiguousarray(hashes[:, :_HASH_BYTES]).view(np.uint64)[:, 0]


class _BandMatches:
    """Pairs of images from two datasets that are equal in one band of their hashes."""

    def __init__(self, first: NDArray[np.uint64], second: NDArray[np.uint64]) -> None:
        self._order = np.argsort(first, kind="stable")
        ordered = first[self._order]
        self._low = np.searchsorted(ordered, second, "left")
        self.num_matches = np.searchsorted(ordered, second, "right") - self._low

    def pairs(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield positions in the first and the second dataset, in chunks that fit into memory."""
        num_matches = np.where(self.num_matches > _MAX_BUCKET_SIZE, 0, self.num_matches)
        ends = np.cumsum(num_matches)
        total = int(ends[-1]) if len(ends) else 0
        cuts = np.searchsorted(ends, np.arange(0, total, _PAIRS_PER_CHUNK), "right")
        for low, high in itertools.pairwise([*cuts.tolist(), len(num_matches)]):
            counts = num_matches[low:high]
            right = np.repeat(np.arange(low, high), counts)
            within = np.arange(len(right)) - np.repeat(np.cumsum(counts) - counts, counts)
            yield self._order[np.repeat(self._low[low:high], counts) + within], right
