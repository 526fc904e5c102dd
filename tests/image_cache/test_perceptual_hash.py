"""Pictures that look alike, in sets large enough that not every pair can be compared."""

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trialrun.image_cache.perceptual_hash import (
    MAX_BITS_APART,
    MAX_GRAYS_APART,
    PerceptualHashes,
    compute_hashes,
    find_near_duplicates,
)


def pictures(num: int, seed: int) -> NDArray[np.uint8]:
    """(N, 8, 9) grays that change slowly, as photographs do when they are shrunk."""
    random = np.random.default_rng(seed)
    corners = random.normal(size=(num, 3, 3))
    down = np.asarray([np.interp(np.linspace(0, 2, 8), range(3), row) for row in np.eye(3)])
    across = np.asarray([np.interp(np.linspace(0, 2, 9), range(3), row) for row in np.eye(3)])
    grays = np.einsum("nij,ih,jw->nhw", corners, down, across)
    grays += random.normal(scale=0.15, size=grays.shape)
    low, high = grays.min(axis=(1, 2), keepdims=True), grays.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.uint8] = ((grays - low) / (high - low) * 255).astype(np.uint8)
    return scaled


def bits_apart(first: PerceptualHashes, second: PerceptualHashes) -> NDArray[np.int64]:
    """How far the hashes of two equally long arrays are apart, row by row."""
    counts: NDArray[np.int64] = np.bitwise_count(first[:, :8] ^ second[:, :8]).sum(axis=1)
    return counts


def test_the_hash_is_imagehashs() -> None:
    """Bit for bit, on pictures of 9 by 8 grays."""
    grays = pictures(300, 1)
    theirs = [np.packbits(imagehash.dhash(Image.fromarray(each)).hash) for each in grays]
    assert (compute_hashes(grays.tobytes())[:, :8] == np.stack(theirs)).all()


def test_sets_without_a_telling_picture_have_no_pairs() -> None:
    """None at all, or flat ones alone."""
    flat = compute_hashes(np.full((3, 72), 9, dtype=np.uint8).tobytes())
    for first, second in ((flat, flat), (flat, compute_hashes(b"")), (compute_hashes(b""), flat)):
        assert find_near_duplicates(first, second).pairs == []


def test_every_near_pair_of_small_sets_is_found() -> None:
    """The bands miss none that comparing all with all would find."""
    random = np.random.default_rng(5)
    grays = pictures(200, 5)
    moved = np.clip(grays.astype(int) + random.integers(-4, 5, grays.shape), 0, 255)
    first, second = (compute_hashes(x.astype(np.uint8).tobytes()) for x in (grays, moved))
    expected = [
        (left, right)
        for left in range(200)
        for right in range(200)
        if bits_apart(first[left : left + 1], second[right : right + 1])[0] <= MAX_BITS_APART
        and np.abs(first[left, 8:].astype(int) - second[right, 8:]).mean() <= MAX_GRAYS_APART
    ]
    assert len(expected) > 50
    found = find_near_duplicates(first, second)
    assert (found.pairs, found.num_skipped) == (expected, 0)


def test_copies_are_found_in_a_large_set() -> None:
    """Of 1,000 copies among 100,000 pictures, at most a fiftieth is missed."""
    random = np.random.default_rng(2)
    grays = pictures(100_000, 2)
    copied = random.choice(len(grays), 1000, replace=False)
    copies = np.clip(grays[copied].astype(int) + random.integers(-1, 2, (1000, 8, 9)), 0, 255)
    first, second = (compute_hashes(x.astype(np.uint8).tobytes()) for x in (grays, copies))
    is_near = bits_apart(first[copied], second) <= MAX_BITS_APART
    pairs = set(find_near_duplicates(first, second).pairs)
    num_found = sum((int(left), right) in pairs for right, left in enumerate(copied))
    assert num_found >= 0.98 * is_near.sum()


def test_images_that_resemble_too_many_are_counted() -> None:
    """A picture that 600 share says so; one that stands alone does not, nor does a flat one."""
    grays = pictures(2, 3)
    flat = np.full((600, 8, 9), 7, dtype=np.uint8)
    first = np.concatenate([np.repeat(grays[:1], 600, axis=0), flat])
    second = np.concatenate([grays, flat[:1]])
    found = find_near_duplicates(compute_hashes(first.tobytes()), compute_hashes(second.tobytes()))
    assert (found.pairs, found.num_skipped) == ([], 1)
