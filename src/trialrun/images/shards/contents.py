"""Contents of images in shards, read at their places."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.errors import redact_credentials
from trialrun.images.shards.index import ShardIndex, is_parquet, make_read_error
from trialrun.images.shards.parquet_shards import RowGroupCache, read_images
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile
from trialrun.images.shards.tar_shards import read_ranges

if TYPE_CHECKING:
    import pyarrow as pa

_NUM_HELD = 2  # shards that are kept for the threads that still read the last one
_NUM_AHEAD = 2


@dataclass(frozen=True, slots=True, eq=False)
class ShardContents:
    """The files of all images in an index, read through `cache`."""

    address: str
    index: ShardIndex
    cache: ShardCache
    _numbers: NDArray[np.integer] = field(init=False, repr=False)
    _offsets: NDArray[np.integer] = field(init=False, repr=False)
    _sizes: NDArray[np.integer] = field(init=False, repr=False)
    _row_groups: RowGroupCache = field(default_factory=RowGroupCache, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, column in (("_numbers", "shard"), ("_offsets", "offset"), ("_sizes", "size")):
            object.__setattr__(self, name, self.index.column(column))

    @property
    def key(self) -> str:
        """The identity of the shards."""
        return self.index.key

    @property
    def shards(self) -> tuple[ShardFile, ...]:
        """The shards in order."""
        return self.index.shards

    @property
    def recorded(self) -> "pa.Table | None":
        """The scans of all rows, if the index has them."""
        return self.index.table if self.index.is_scanned else None

    def find_shards(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the numbers of the shards that hold `rows`."""
        numbers: NDArray[np.integer] = self._numbers[rows]
        return numbers

    def read(self, row: int) -> bytes:
        """Return the file of one image.

        Raises:
            UndecodableError: The image is not in the shard but named only.
            InvalidDatasetError: The shard vanished, changed or is truncated.
            StorageError: The store does not answer, or the cache has no room.
        """
        shard = self.shards[self._numbers[row]]
        address, offset = redact_credentials(shard.address), int(self._offsets[row])
        with self.cache.hold(shard) as path:
            try:
                if is_parquet(shard):
                    return self._row_groups.read(path, address, offset)
                (data,) = read_ranges(path, address, [offset], [int(self._sizes[row])])
            except OSError as error:
                raise make_read_error(shard, error) from error
        return data

    def read_in_order(self, rows: NDArray[np.integer]) -> Iterator[bytes | str]:
        """Yield the files of increasing `rows`, or why a file is not in its shard.

        Each shard is read once, from its start to its end.

        Raises:
            InvalidDatasetError: As `read`.
            StorageError: As `read`.
        """
        numbers, starts = np.unique(self._numbers[rows], return_index=True)
        shards = [self.shards[number] for number in numbers]
        for place, part in enumerate(np.split(rows, starts[1:]) if shards else ()):
            with self.cache.hold(shards[place]) as path:
                self.cache.prefetch(shards[place + 1 : place + 1 + _NUM_AHEAD])
                yield from self._read_shard(shards[place], path, part)

    def _read_shard(
        self, shard: ShardFile, path: Path, rows: NDArray[np.integer]
    ) -> Iterator[bytes | str]:
        address, offsets = redact_credentials(shard.address), self._offsets[rows].tolist()
        try:
            if is_parquet(shard):
                yield from read_images(path, address, offsets)
            else:
                yield from read_ranges(path, address, offsets, self._sizes[rows].tolist())
        except OSError as error:
            raise make_read_error(shard, error) from error

    def sort_rows(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the places of `rows` in the order that the images had before sharding."""
        positions = self.index.positions
        return np.arange(len(rows)) if positions is None else np.argsort(positions[rows])

    def hold_in_order(self, rows: Iterable[int]) -> Iterator[int]:
        """Yield `rows` while their shards are held; of consecutive rows, the next ones too.

        Threads that read the rows then do not wait for downloads, for which they have no time.
        """
        held: dict[int, ExitStack] = {}
        previous = -1
        try:
            for row in rows:
                if (number := int(self._numbers[row])) not in held:
                    held[number] = stack = ExitStack()
                    stack.enter_context(self.cache.hold(self.shards[number]))
                    if row == previous + 1:  # else the order is unknown here
                        self.cache.prefetch(self.shards[number + 1 : number + 1 + _NUM_AHEAD])
                    while len(held) > _NUM_HELD:
                        held.pop(next(iter(held))).close()
                yield row
                previous = row
        finally:
            for stack in held.values():
                stack.close()
