"""Images that are read from shards in every epoch, for data that does not fit into the cache.

Only the shards that the present batches need are held on this machine, and the next ones are
downloaded in the background. Threads decode each batch anew.
"""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trialrun.image_cache.pack import DecodedImages
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile

_KEPT_IMAGES = 256  # a lane of the order is read again after at most 64 images of any rank


@dataclass(slots=True)
class _HeldShard:
    """A shard that stays on this machine; `last_read` counts images up to its last use."""

    stack: ExitStack
    last_read: int


@dataclass(slots=True)
class StreamedImages:
    """Decoded images with the interface of a `Pack`, read through `cache`.

    `images` decode rows live and read them through the same cache. `shard_numbers`, (N,), are the
    shards of all rows.
    """

    images: DecodedImages
    shards: Sequence[ShardFile]
    shard_numbers: NDArray[np.integer]
    cache: ShardCache
    num_read: int = field(default=0, init=False)
    _held: dict[int, _HeldShard] = field(default_factory=dict, init=False, repr=False)
    _announced: frozenset[int] = field(default=frozenset(), init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each row holds no image; empty text if it does."""
        return self.images.reasons

    @property
    def perceptual_hashes(self) -> PerceptualHashes:
        """The hashes of all rows."""
        return self.images.perceptual_hashes

    @property
    def aspects(self) -> NDArray[np.float32]:
        """The aspect ratios of all rows."""
        return self.images.aspects

    @property
    def num_decoded(self) -> int:
        """The number of decoded images, which grows with every batch."""
        return self.images.num_decoded

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        return self.images.usable_rows()

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Decode the images at `rows` in that order: (N, 3, S, S) uint8.

        Raises:
            InvalidDatasetError: A shard or an image vanished or changed since it was scanned.
            StorageError: The store does not answer, or the cache has no room.
        """
        with self._lock:
            self.num_read += len(rows)
            self._hold(np.unique(self.shard_numbers[rows]).tolist())
        return self.images.pixels(rows)

    def prefetch(self, numbers: NDArray[np.integer]) -> None:
        """Download the shards with these numbers in the background, the first ones first."""
        wanted = dict.fromkeys(numbers.tolist())
        if wanted.keys() != self._announced:
            self._announced = frozenset(wanted)
            held = self._held
            self.cache.prefetch([self.shards[n] for n in wanted if n not in held])

    def close(self) -> None:
        """Release all shards."""
        with self._lock:
            for shard in self._held.values():
                shard.stack.close()
            self._held.clear()

    def _hold(self, numbers: Sequence[int]) -> None:
        """Hold these shards; release those that were not read for a while."""
        for number in numbers:
            if number in self._held:
                self._held[number].last_read = self.num_read
        oldest = self.num_read - _KEPT_IMAGES
        for number in [n for n, shard in self._held.items() if shard.last_read < oldest]:
            self._held.pop(number).stack.close()
        for number in numbers:
            if number not in self._held:
                stack = ExitStack()
                stack.enter_context(self.cache.hold(self.shards[number]))
                self._held[number] = _HeldShard(stack, self.num_read)
