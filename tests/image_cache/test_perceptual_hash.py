"""Near duplicates, in datasets too large to compare every pair."""

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


def draw_grays(num: int, seed: int) -> NDArray[np.uint8]:
    """Draw smooth (N, 8, 9) grays, like photographs shrunk to that size."""
    random = np.random.default_rng(seed)
    corners = random.normal(size=(num, 3, 3))
    down = np.asarray([np.interp(np.linspace(0, 2, 8), range(3), row) for row in np.eye(3)])
    across = np.asarray([np.interp(np.linspace(0, 2, 9), range(3), row) for row in np.eye(3)])
    grays = np.einsum("nij,ih,jw->nhw", corners, down, across)
    grays += random.normal(scale=0.15, size=grays.shape)
    low, high = grays.min(axis=(1, 2), keepdims=True), grays.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.uint8] = ((grays - low) / (high - low) * 255).astype(np.uint8)
    return scaled


def count_bits_apart(first: PerceptualHashes, second: PerceptualHashes) -> NDArray[np.int64]:
    """Count the bits in which the hashes of two arrays differ, row by row."""
    counts: NDArray[np.int64] = np.bitwise_count(first[:, :8] ^ second[:, :8]).sum(axis=1)
    return counts


def test_the_hash_equals_imagehash() -> None:
    """Bit for bit, on images of 9 by 8 grays."""
    grays = draw_grays(300, 1)
    expected = [np.packbits(imagehash.dhash(Image.fromarray(image)).hash) for image in grays]
    assert (compute_hashes(grays.tobytes())[:, :8] == np.stack(expected)).all()


def test_datasets_without_a_comparable_image_have_no_pairs() -> None:
    """No images, or flat images only."""
    flat = compute_hashes(np.full((3, 72), 9, dtype=np.uint8).tobytes())
    for first, second in ((flat, flat), (flat, compute_hashes(b"")), (compute_hashes(b""), flat)):
        assert find_near_duplicates(first, second).pairs == []


def test_every_near_pair_of_small_datasets_is_found() -> None:
    """The bands find every pair that comparing all images would find."""
    random = np.random.default_rng(5)
    grays = draw_grays(200, 5)
    moved = np.clip(grays.astype(int) + random.integers(-4, 5, grays.shape), 0, 255)
    first, second = (compute_hashes(x.astype(np.uint8).tobytes()) for x in (grays, moved))
    expected = [
        (left, right)
        for left in range(200)
        for right in range(200)
        if count_bits_apart(first[left : left + 1], second[right : right + 1])[0] <= MAX_BITS_APART
        and np.abs(first[left, 8:].astype(int) - second[right, 8:]).mean() <= MAX_GRAYS_APART
    ]
    assert len(expected) > 50
    result = find_near_duplicates(first, second)
    assert (result.pairs, result.num_skipped) == (expected, 0)


def test_copies_are_found_in_a_large_dataset() -> None:
    """Of 1,000 copies among 100,000 images, at most 2 % are missed."""
    random = np.random.default_rng(2)
    grays = draw_grays(100_000, 2)
    copied = random.choice(len(grays), 1000, replace=False)
    copies = np.clip(grays[copied].astype(int) + random.integers(-1, 2, (1000, 8, 9)), 0, 255)
    first, second = (compute_hashes(x.astype(np.uint8).tobytes()) for x in (grays, copies))
    is_near = count_bits_apart(first[copied], second) <= MAX_BITS_APART
    pairs = set(find_near_duplicates(first, second).pairs)
    num_found = sum((int(left), right) in pairs for right, left in enumerate(copied))
    assert num_found >= 0.98 * is_near.sum()


def test_images_that_resemble_too_many_others_are_counted() -> None:
    """An image with 600 copies is counted as skipped; a unique one and a flat one are not."""
    grays = draw_grays(2, 3)
    flat = np.full((600, 8, 9), 7, dtype=np.uint8)
    first = np.concatenate([np.repeat(grays[:1], 600, axis=0), flat])
    second = np.concatenate([grays, flat[:1]])
    result = find_near_duplicates(compute_hashes(first.tobytes()), compute_hashes(second.tobytes()))
    assert (result.pairs, result.num_skipped) == ([], 1)
