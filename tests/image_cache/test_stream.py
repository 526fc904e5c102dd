"""Images streamed from shards: each once per epoch, in one order, with few shards on the disk."""

from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.object_store import ERROR, SHORT, FaultyStore, shared_store, store
from trialrun.cache.location import cache_folder, shards_folder
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.inputs.batches import (
    Batch,
    ImageDataset,
    PrefetchIterator,
    sequential_batches,
    training_batches,
)
from trialrun.engine.inputs.stream_order import Sharding
from trialrun.image_cache.inventory import clear_cache, list_archives
from trialrun.image_cache.perceptual_hash import PerceptualHashes, compute_hashes
from trialrun.image_cache.stream import StreamedImages
from trialrun.images.shards.requests import RequestLimits
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import ShardFile, list_shards

__all__ = ["shared_store", "store"]  # fixtures

NUM_SHARDS, SHARD_SIZE, NUM_BYTES = 128, 8, 12  # an image is 2 x 2 pixels
LIMITS = RequestLimits(pause_seconds=0.01)


@dataclass(slots=True)
class _RawImages:
    """Images whose bytes lie one after the other in their shards, read through a cache."""

    shards: list[ShardFile]
    cache: ShardCache
    most_on_disk: int = 0
    num_decoded: int = 0
    reasons: tuple[str, ...] = ()
    perceptual_hashes: PerceptualHashes = field(default_factory=lambda: compute_hashes(b""))
    aspects: NDArray[np.float32] = field(default_factory=lambda: np.ones(0, dtype=np.float32))

    def usable_rows(self) -> list[int]:
        """Return all rows."""
        return list(range(len(self.shards) * SHARD_SIZE))

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Read the images at `rows`."""
        images = []
        for row in rows.tolist():
            with self.cache.hold(self.shards[row // SHARD_SIZE]) as path:
                start = row % SHARD_SIZE * NUM_BYTES
                content = path.read_bytes()[start : start + NUM_BYTES]
                images.append(np.frombuffer(content, dtype=np.uint8).reshape(3, 2, 2))
        on_disk = len(list(self.cache.folder.glob("[!.]*/*.tar")))
        self.most_on_disk = max(self.most_on_disk, on_disk)
        return torch.from_numpy(np.stack(images))


def _make_content(shard: int) -> bytes:
    """Return a shard whose images carry their row in their first two bytes."""
    rows = range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE)
    return b"".join(row.to_bytes(2, "big") + bytes(NUM_BYTES - 2) for row in rows)


def _open(shards: list[ShardFile], folder: Path, limit_bytes: int = 10**6) -> ImageDataset:
    cache = ShardCache(folder, limit_bytes, limits=LIMITS)
    numbers = np.repeat(np.arange(len(shards)), SHARD_SIZE)
    source = StreamedImages(_RawImages(shards, cache), shards, numbers, cache)
    rows = np.arange(len(numbers))
    sharding = Sharding(numbers, source.prefetch)
    return ImageDataset(source, rows, np.zeros(len(rows), dtype=np.int64), sharding=sharding)


@pytest.fixture(scope="module")
def shards() -> list[ShardFile]:
    """Return shards in fsspec's store in memory, which is remote to the cache."""
    memory = fsspec.filesystem("memory")
    for number in range(NUM_SHARDS):
        memory.pipe_file(f"/stream/{number:04d}.tar", _make_content(number))
    return list_shards("memory://stream")


def _read_rows(batches: list[Batch]) -> list[int]:
    """Return the rows that the pixels of batches carry."""
    first = [batch.pixels.flatten(1)[:, :2].to(torch.int64) for batch in batches]
    return [int(high) * 256 + int(low) for pixels in first for high, low in pixels]


def _read_epoch(
    data: ImageDataset, *, batch_size: int, ranks: Ranks = SINGLE_PROCESS, first_step: int = 0
) -> list[int]:
    batches = training_batches(
        data, epoch=1, batch_size=batch_size, random_seed=5, ranks=ranks, first_step=first_step
    )
    return _read_rows(list(PrefetchIterator(batches)))


def test_the_order_depends_on_neither_ranks_nor_batch_size(
    shards: list[ShardFile], tmp_path: Path
) -> None:
    """Ranks read the whole epoch, each image once; a resumed epoch continues in it."""
    data = _open(shards[:24], tmp_path)
    whole = _read_epoch(data, batch_size=16)
    assert sorted(whole) == list(range(24 * SHARD_SIZE))
    assert _read_epoch(data, batch_size=48) == whole
    assert _read_epoch(data, batch_size=16, first_step=5) == whole[80:]
    shares = [_read_epoch(data, batch_size=4, ranks=Ranks(rank, 4)) for rank in range(4)]
    assert [row for rows in zip(*shares, strict=True) for row in rows] == whole
    assert sorted(_read_rows(list(sequential_batches(data, 100)))) == sorted(whole)


def test_a_rank_downloads_its_shards_once_into_a_small_cache(
    shards: list[ShardFile], tmp_path: Path
) -> None:
    """The cache holds a part of a rank's shards, and none is downloaded a second time."""
    room = 28  # 8 lanes read from 16 shards or fewer at once, and fetch half as many ahead
    data = _open(shards, tmp_path, room * SHARD_SIZE * NUM_BYTES)
    rows = _read_epoch(data, batch_size=8, ranks=Ranks(1, 8))
    assert isinstance(data.source, StreamedImages)
    images, cache = data.source.images, data.source.cache
    assert isinstance(images, _RawImages)
    own = {row // SHARD_SIZE for row in rows}
    assert len(own) <= NUM_SHARDS // 8 + 8
    assert images.most_on_disk <= room
    assert cache.num_downloads == len(own)


def test_an_epoch_survives_faults_of_the_store(store: FaultyStore, tmp_path: Path) -> None:
    """Failed and short answers are repeated; no image is missing or read twice."""
    for number in range(6):
        store.put(f"stream/{number}.tar", _make_content(number))
    data = _open(list_shards("s3://data/stream"), tmp_path)
    store.faults = [ERROR, "", SHORT, "", "", ERROR, ERROR]
    assert sorted(_read_epoch(data, batch_size=16)) == list(range(6 * SHARD_SIZE))
    assert isinstance(data.source, StreamedImages)
    assert data.source.cache.num_retries == 4


def test_shards_are_released_at_the_end(shards: list[ShardFile], tmp_path: Path) -> None:
    """A closed source leaves no shard in use, so that other processes can evict them."""
    data = _open(shards[:4], tmp_path)
    _read_epoch(data, batch_size=8)
    assert isinstance(data.source, StreamedImages)
    assert list(tmp_path.glob("*.users/*"))
    data.source.close()
    assert not list(tmp_path.glob("*.users/*"))


def test_downloaded_shards_are_listed_and_cleared_with_the_cache(
    shards: list[ShardFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cache list` and `clear` know them; a shard in use stays."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path))
    cache = ShardCache(shards_folder(cache_folder()), 10**6, limits=LIMITS)
    for shard in shards[:2]:
        with cache.hold(shard):
            pass
    with cache.hold(shards[0]) as path:
        assert sorted(one.contents.source for one in list_archives()) == ["0000.tar", "0001.tar"]
        cleared = clear_cache()
        assert (cleared.num_archives, cleared.num_in_use) == (1, 1)
        assert path.exists()
    assert clear_cache().num_archives == 1
