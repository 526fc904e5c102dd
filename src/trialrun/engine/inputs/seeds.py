"""Random numbers that depend on their purpose, not on earlier draws.

Order, initial weights and augmentation each have their own stream, so changing one setting does
not change the draws of the others, and a resumed run draws the same as an uninterrupted one.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_SPLITMIX_STEP = np.uint64(0x9E3779B97F4A7C15)
_SPLITMIX_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SPLITMIX_SECOND = np.uint64(0x94D049BB133111EB)


def derive_seed(random_seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for a purpose; `random_seed` is the run's, an integer of any size."""
    text = "\0".join(map(str, (random_seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def draw_permutation(num_items: int, seed: int) -> NDArray[np.int64]:
    """Return the integers below `num_items` in an order that depends on `seed` alone."""
    return np.random.Generator(np.random.Philox(seed)).permutation(num_items)


def draw_uniforms(seed: int, items: NDArray[np.int64], num_draws: int) -> NDArray[np.float64]:
    """Return (N, num_draws) numbers in [0, 1); row n depends on (seed, items[n]) alone.

    Source:
        SplitMix64: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators.
    """
    first = items.astype(np.uint64)[:, None] * np.uint64(num_draws)
    counters = (first + np.arange(num_draws, dtype=np.uint64)).astype(np.uint64)
    with np.errstate(over="ignore"):
        state = np.full(counters.shape, seed, dtype=np.uint64)
        state += (counters + np.uint64(1)) * _SPLITMIX_STEP
        state = (state ^ (state >> np.uint64(30))) * _SPLITMIX_FIRST
        state = (state ^ (state >> np.uint64(27))) * _SPLITMIX_SECOND
        state ^= state >> np.uint64(31)
    draws: NDArray[np.float64] = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return draws
