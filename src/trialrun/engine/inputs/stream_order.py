"""The order of an epoch that reads images from shards; it depends on the seed and the epoch alone.

The shards are shuffled, and their images are shuffled within blocks of a few shards. This sequence
is cut into a fixed number of lanes, and the epoch takes one image from each lane in turn: position
p is element p // L of lane p % L. Of W ranks, each takes every W-th position of a step. If L is a
multiple of W, a rank therefore reads the shards of its own lanes only. The order does not depend on
batch size, ranks or threads. Letters: N images, S shards, L lanes.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trialrun.engine.inputs.seeds import derive_seed, draw_permutation

NUM_LANES = 64  # 64 or any divisor of it is a number of ranks that share no shards
SHARDS_PER_BLOCK = 2
_MAX_BLOCKS = 2 * NUM_LANES  # kept in memory; a step reads at most one or two blocks per lane


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
    _block_starts: NDArray[np.int64] = field(init=False)
    _blocks: "OrderedDict[int, NDArray[np.int64]]" = field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        seed = derive_seed(self.random_seed, "shards", self.epoch)
        shards = draw_permutation(len(self.shard_starts) - 1, seed)
        counts = np.diff(self.shard_starts)[shards]
        firsts = np.arange(0, len(shards), SHARDS_PER_BLOCK)
        sizes = np.add.reduceat(counts, firsts) if len(shards) else counts
        object.__setattr__(self, "_shards", shards)
        object.__setattr__(self, "_block_starts", np.concatenate([[0], np.cumsum(sizes)]))

    def __len__(self) -> int:
        return int(self._block_starts[-1])

    def __getitem__(self, places: slice) -> NDArray[np.int64]:
        """Return the positions in the set of the images at `places` of the epoch."""
        smaller, num_larger = divmod(len(self), NUM_LANES)
        elements, lanes = np.divmod(np.arange(*places.indices(len(self))), NUM_LANES)
        sequence = lanes * smaller + np.minimum(lanes, num_larger) + elements
        blocks = np.searchsorted(self._block_starts, sequence, side="right") - 1
        positions = np.empty(len(sequence), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            is_in_block = blocks == block
            offsets = sequence[is_in_block] - self._block_starts[block]
            positions[is_in_block] = self._shuffle_block(block)[offsets]
        return positions

    def _shuffle_block(self, block: int) -> NDArray[np.int64]:
        """Return the images of a block in random order; the blocks used last stay in memory."""
        if block in self._blocks:
            self._blocks.move_to_end(block)
            return self._blocks[block]
        first = block * SHARDS_PER_BLOCK
        shards = self._shards[first : first + SHARDS_PER_BLOCK].tolist()
        images = np.concatenate(
            [np.arange(self.shard_starts[s], self.shard_starts[s + 1]) for s in shards]
        )
        seed = derive_seed(self.random_seed, "block", self.epoch, block)
        shuffled = images[draw_permutation(len(images), seed)]
        self._blocks[block] = shuffled if self.members is None else self.members[shuffled]
        if len(self._blocks) > _MAX_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[block]


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
    firsts = np.flatnonzero(np.diff(ordered)) + 1
    bounds = [[0], firsts, [len(ordered)]] if len(ordered) else [[0]]
    return StreamOrder(np.concatenate(bounds).astype(np.int64), members, random_seed, epoch)


def draw_stream_order(
    shard_numbers: NDArray[np.integer], random_seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the whole order of an epoch, (N,); arguments as for `open_stream_order`."""
    return open_stream_order(shard_numbers, random_seed, epoch)[:]
