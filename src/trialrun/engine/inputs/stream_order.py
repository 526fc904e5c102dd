"""The order of an epoch that reads images from shards; it depends on the seed and the epoch alone.

The shards are shuffled, and the images within each. This sequence is cut into a fixed number of
lanes, and the epoch takes one image from each lane in turn: position p is element p // L of lane
p % L. Of W ranks, each takes every W-th position of a step. If L is a multiple of W, a rank
therefore reads the shards of its own lanes only. The order does not depend on batch size, ranks or
threads. Letters: N images, S shards, L lanes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trialrun.engine.inputs.seeds import derive_seed, draw_permutation

NUM_LANES = 64  # any number of ranks that divides it shares no shards
# Shards whose order is kept. A lane needs one, two at a boundary, and as many further ahead.
_MAX_SHUFFLED = 4 * NUM_LANES
_MIN_AHEAD = 4  # shards that a rank fetches ahead
_UNIFORM_SHARE = 0.9  # of a shard's images, of one class


class EpochOrder(Protocol):
    """The images' positions in the order of an epoch, read by slices."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> NDArray[np.int64]:
        """Return the positions of the images at `places`."""
        ...


@dataclass(frozen=True, slots=True)
class Sharding:
    """The shard of each image of a set, (N,); `prefetch` gets the shards that are needed next.

    What `prefetch` gets are shard numbers with repetitions, those needed first in front.
    """

    numbers: NDArray[np.integer]
    prefetch: Callable[[NDArray[np.integer]], None]

    @property
    def mean_size(self) -> int:
        """The mean number of images of a shard, rounded up."""
        num_shards = int(self.numbers.max()) + 1 if len(self.numbers) else 1
        return -(-len(self.numbers) // num_shards)

    def list_distances(self, world_size: int) -> list[int]:
        """Return how many images ahead of a step shards are fetched, in half shards of each lane.

        With many lanes per rank half a shard is far enough. With few, several shards are fetched
        ahead, so that a rank downloads as many at once as with many lanes.
        """
        half_shards = NUM_LANES * -(-self.mean_size // 2)
        num_distances = -(-2 * _MIN_AHEAD * world_size // NUM_LANES)
        return [half_shards * (number + 1) for number in range(num_distances)]


@dataclass(frozen=True, slots=True)
class StreamOrder:
    """The order of one epoch, computed as it is read: memory does not grow with N.

    `members` are the images' positions in the set, sorted by shard; None if the set is sorted so.
    `shard_starts`, (S + 1,), are where each shard's images begin in them.
    """

    shard_starts: NDArray[np.int64]
    members: NDArray[np.int64] | None
    random_seed: int
    epoch: int
    _shards: NDArray[np.int64] = field(init=False)
    _sequence_starts: NDArray[np.int64] = field(init=False)
    _shuffled: "OrderedDict[int, NDArray[np.int64]]" = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        seed = derive_seed(self.random_seed, "shards", self.epoch)
        shards = draw_permutation(len(self.shard_starts) - 1, seed)
        counts = np.diff(self.shard_starts)[shards]
        object.__setattr__(self, "_shards", shards)
        object.__setattr__(self, "_sequence_starts", np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        return int(self.shard_starts[-1])

    def __getitem__(self, places: slice) -> NDArray[np.int64]:
        """Return the positions in the set of the images at `places` of the epoch."""
        smaller, num_larger = divmod(len(self), NUM_LANES)
        elements, lanes = np.divmod(np.arange(*places.indices(len(self))), NUM_LANES)
        sequence = lanes * smaller + np.minimum(lanes, num_larger) + elements
        turns = np.searchsorted(self._sequence_starts, sequence, side="right") - 1
        positions = np.empty(len(sequence), dtype=np.int64)
        for turn in np.unique(turns).tolist():
            is_in_shard = turns == turn
            offsets = sequence[is_in_shard] - self._sequence_starts[turn]
            positions[is_in_shard] = self._shuffle_shard(int(self._shards[turn]))[offsets]
        return positions

    def _shuffle_shard(self, shard: int) -> NDArray[np.int64]:
        """Return the images of a shard in random order; the shards used last stay in memory."""
        if shard in self._shuffled:
            self._shuffled.move_to_end(shard)
            return self._shuffled[shard]
        start, stop = self.shard_starts[shard : shard + 2].tolist()
        seed = derive_seed(self.random_seed, "shard", self.epoch, shard)
        shuffled = start + draw_permutation(stop - start, seed)
        self._shuffled[shard] = shuffled if self.members is None else self.members[shuffled]
        if len(self._shuffled) > _MAX_SHUFFLED:
            self._shuffled.popitem(last=False)
        return self._shuffled[shard]


def open_stream_order(
    shard_numbers: NDArray[np.integer], random_seed: int, epoch: int
) -> StreamOrder:
    """Return the order of an epoch.

    Args:
        shard_numbers: (N,), the shard of each image.
        random_seed: The run's seed.
        epoch: From 1.
    """
    is_sorted = bool(np.all(shard_numbers[:-1] <= shard_numbers[1:]))
    members = None if is_sorted else np.argsort(shard_numbers, kind="stable")
    ordered = shard_numbers if members is None else shard_numbers[members]
    changes = np.flatnonzero(ordered[:-1] != ordered[1:]) + 1
    starts = np.unique(np.array([0, *changes.tolist(), len(ordered)], dtype=np.int64))
    return StreamOrder(starts, members, random_seed, epoch)


def draw_stream_order(
    shard_numbers: NDArray[np.integer], random_seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the whole order of an epoch, (N,); arguments as for `open_stream_order`."""
    return open_stream_order(shard_numbers, random_seed, epoch)[:]


def arrange_by_shard(
    chosen: NDArray[np.int64], shard_numbers: NDArray[np.integer], random_seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return positions, which may repeat images as in `draw_order`, in an order by shards."""
    shards = shard_numbers[chosen % len(shard_numbers)]
    return chosen[draw_stream_order(shards, random_seed, epoch)]


def count_uniform_shards(
    labels: NDArray[np.int64], shard_numbers: NDArray[np.integer]
) -> tuple[int, int]:
    """Return how many shards hold almost one class only, and of how many shards, sampled evenly.

    (0, 0) if all shards fit into the lanes, so that every batch mixes all of them, or if one class
    is that frequent in the whole set.
    """
    num_shards = int(shard_numbers.max()) + 1 if len(shard_numbers) else 0
    if num_shards <= NUM_LANES or _find_largest_share(labels) >= _UNIFORM_SHARE:
        return 0, 0
    sampled = np.unique(np.linspace(0, num_shards - 1, NUM_LANES).astype(np.int64))
    is_sampled = np.isin(shard_numbers, sampled)
    labels, shard_numbers = labels[is_sampled], shard_numbers[is_sampled]
    shares = [_find_largest_share(labels[shard_numbers == number]) for number in sampled]
    return sum(share >= _UNIFORM_SHARE for share in shares), len(sampled)


def _find_largest_share(labels: NDArray[np.int64]) -> float:
    return float(np.bincount(labels).max() / len(labels)) if len(labels) else 0.0
