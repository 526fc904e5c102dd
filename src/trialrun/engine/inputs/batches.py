"""Batches of decoded images, in an order that depends on the seed and the epoch alone.

Tensor letters: N images in a batch, S the image size.
"""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.inputs.order import NATURAL, draw_order
from trialrun.engine.inputs.stream_order import (
    EpochOrder,
    Sharding,
    arrange_by_shard,
    open_stream_order,
)


class ImageSource(Protocol):
    """Decoded images by row, such as the image cache."""

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (N, 3, S, S) uint8, the images at `rows` in that order."""
        ...


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """A labelled set: the rows of its usable images in a source, and their class indices.

    `aspects` are the aspect ratios of all rows of the source if it stores whole images squashed
    into squares; None if its squares are to be used as they are. `sharding` says in which shards
    the images are, if they are read from shards in every epoch.
    """

    source: ImageSource
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    aspects: NDArray[np.float32] | None = None
    sharding: Sharding | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[np.int64]) -> "ImageDataset":
        """Return the images at `positions`, in that order."""
        sharding = self.sharding
        if sharding is not None:
            sharding = replace(sharding, numbers=sharding.numbers[positions])
        rows, labels = self.rows[positions], self.labels[positions]
        return replace(self, rows=rows, labels=labels, sharding=sharding)

    def load_batch(self, positions: NDArray[np.int64], num_images_in_step: int) -> "Batch":
        """Load the images at `positions` among the usable ones, which are as in `Batch`."""
        indices = positions % len(self)
        rows = self.rows[indices]
        labels = torch.from_numpy(self.labels[indices])
        aspects = None if self.aspects is None else self.aspects[rows]
        return Batch(self.source.pixels(rows), labels, positions, num_images_in_step, aspects)

    def prefetch(self, *positions: NDArray[np.int64]) -> None:
        """Fetch the shards of images that are needed soon, if the set is read from shards."""
        if self.sharding is not None:
            indices = np.concatenate(positions) % len(self)
            self.sharding.prefetch(self.sharding.numbers[indices])


@dataclass(frozen=True, slots=True)
class Batch:
    """(N, 3, S, S) uint8 pixels, (N,) int64 labels, and the images' positions in the set.

    Where an epoch repeats an image, the set's size is added to its position for each repetition, so
    that each is augmented differently.

    `num_images_in_step` counts the images of the same step on all ranks. `aspects`, (N,), are as in
    `ImageDataset`.
    """

    pixels: Tensor
    labels: Tensor
    positions: NDArray[np.int64]
    num_images_in_step: int
    aspects: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def training_batches(
    data: ImageDataset,
    *,
    epoch: int,
    batch_size: int,
    random_seed: int,
    ranks: Ranks = SINGLE_PROCESS,
    first_step: int = 0,
    class_sampling: str = NATURAL,
) -> Iterator[Batch]:
    """Yield this rank's share of every step; all ranks together use the epoch's images once.

    A step has `batch_size` images per rank. The steps before `first_step` are skipped.
    `class_sampling` is the setting of this name.
    """
    order = _open_order(data, random_seed, epoch, class_sampling)
    steps = _cut_steps(len(order), batch_size * ranks.world_size, 2 * ranks.world_size)
    distances = [] if data.sharding is None else data.sharding.list_distances(ranks.world_size)
    for step in steps[first_step:]:
        first, last = step.start + ranks.rank, step.stop
        positions = order[first : last : ranks.world_size]
        ahead = [order[first + d : last + d : ranks.world_size] for d in distances]
        data.prefetch(positions, *ahead)
        yield data.load_batch(positions, step.stop - step.start)


def _open_order(
    data: ImageDataset, random_seed: int, epoch: int, class_sampling: str
) -> EpochOrder:
    if data.sharding is None:
        return draw_order(data.labels, random_seed, epoch, class_sampling)
    if class_sampling == NATURAL:
        return open_stream_order(data.sharding.numbers, random_seed, epoch)
    chosen = draw_order(data.labels, random_seed, epoch, class_sampling)
    return arrange_by_shard(chosen, data.sharding.numbers, random_seed, epoch)


def chunk_indices(
    order: NDArray[np.int64], batch_size: int, smallest: int = 2
) -> list[NDArray[np.int64]]:
    """Cut `order` into chunks of `batch_size`; a last chunk below `smallest` joins the previous.

    Batch norm cannot train on a single image, and dropping the chunk would skip images. A last
    chunk of less than a half gets images of the previous one.
    """
    return [order[step] for step in _cut_steps(len(order), batch_size, smallest)]


def _cut_steps(num_images: int, batch_size: int, smallest: int) -> list[slice]:
    """Cut the images into batches; the last two share theirs if the last one is below a half.

    Two images of a last batch, say, have no statistics for batch norm where a feature map is one
    pixel: all its outputs are then 1 or -1, and the step can spoil the network.
    """
    starts = list(range(0, num_images, batch_size))
    num_last = num_images - starts[-1] if len(starts) > 1 else batch_size
    if num_last < min(smallest, batch_size):
        starts.pop()
    elif num_last < batch_size // 2:
        starts[-1] = starts[-2] + (batch_size + num_last + 1) // 2
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num_images], strict=True)]


def sequential_batches(
    data: ImageDataset, batch_size: int, ranks: Ranks = SINGLE_PROCESS
) -> Iterator[Batch]:
    """Yield this rank's share of the images in their order; all ranks together use each once."""
    share = _choose_share(data, ranks)
    num_ahead = 0 if data.sharding is None else data.sharding.mean_size
    for start in range(0, len(share), batch_size):
        positions = share[start : start + batch_size]
        data.prefetch(share[start : start + batch_size + num_ahead])
        yield data.load_batch(positions, len(positions))


def _choose_share(data: ImageDataset, ranks: Ranks) -> NDArray[np.int64]:
    """Return the positions of this rank's images: in sharded data, those of shards of its own."""
    if data.sharding is None:
        return np.arange(ranks.rank, len(data), ranks.world_size)
    size, num_larger = divmod(len(data), ranks.world_size)
    start = ranks.rank * size + min(ranks.rank, num_larger)
    return np.arange(start, start + size + (ranks.rank < num_larger))


PREFETCH_DEPTH = 2  # batches that are loaded ahead

_BatchQueue = queue.Queue[Batch | BaseException | None]  # None marks the end


@dataclass(slots=True)
class PrefetchIterator:
    """Batches loaded by a thread while the caller computes, at most `depth` ahead.

    With a depth of 0 there is no thread: each batch is loaded when the caller asks for it.

    With `pin_memory` they are in page-locked memory, from which a GPU copies while it computes.
    `waited_seconds` counts the time that the caller waited for them. When the caller stops, a batch
    that is being loaded, which may hang on a store, delays it by `stop_seconds` at most.
    """

    batches: Iterable[Batch]
    depth: int = PREFETCH_DEPTH
    pin_memory: bool = False
    stop_seconds: float = 2.0
    waited_seconds: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[Batch]:
        return self._load_ahead() if self.depth else self._load_directly()

    def _load_directly(self) -> Iterator[Batch]:
        started = time.perf_counter()
        for batch in self.batches:
            prepared = _pin_memory(batch) if self.pin_memory else batch
            self.waited_seconds += time.perf_counter() - started
            yield prepared
            started = time.perf_counter()

    def _load_ahead(self) -> Iterator[Batch]:
        ready: _BatchQueue = queue.Queue(self.depth)
        stop = threading.Event()
        thread = threading.Thread(target=self._fill_queue, args=(ready, stop), daemon=True)
        thread.start()
        try:
            while (item := self._wait_for_item(ready)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            latest = time.monotonic() + self.stop_seconds
            while thread.is_alive() and time.monotonic() < latest:
                _drain_queue(ready)  # a full one blocks the thread
                thread.join(0.01)

    def _wait_for_item(self, ready: _BatchQueue) -> Batch | BaseException | None:
        started = time.perf_counter()
        item = ready.get()
        self.waited_seconds += time.perf_counter() - started
        return item

    def _fill_queue(self, ready: _BatchQueue, stop: threading.Event) -> None:
        try:
            for batch in self.batches:
                if stop.is_set():
                    return
                ready.put(_pin_memory(batch) if self.pin_memory else batch)
            ready.put(None)
        except BaseException as error:  # raised again in the caller's thread
            ready.put(error)


def _pin_memory(batch: Batch) -> Batch:
    return replace(batch, pixels=batch.pixels.pin_memory(), labels=batch.labels.pin_memory())


def _drain_queue(ready: _BatchQueue) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
