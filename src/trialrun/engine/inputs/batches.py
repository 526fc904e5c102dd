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
from trialrun.engine.inputs.seeds import derive_seed, draw_permutation


class ImageSource(Protocol):
    """Decoded images by row; a pack is one."""

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, the images at `rows` in that order."""
        ...


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """What is learned from or evaluated on: the usable rows of a source and their class indices."""

    source: ImageSource
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: NDArray[np.int64], num_in_step: int) -> "Batch":
        """The images at `positions`, counted among the usable ones."""
        pixels = self.source.pixels(self.rows[positions])
        labels = torch.from_numpy(self.labels[positions])
        return Batch(pixels, labels, positions, num_in_step)


@dataclass(frozen=True, slots=True)
class Batch:
    """(N, 3, S, S) uint8 pixels, (N,) int64 labels, and which images they are.

    `num_in_step` counts the images of the same step on all ranks.
    """

    pixels: Tensor
    labels: Tensor
    positions: NDArray[np.int64]
    num_in_step: int

    def __len__(self) -> int:
        return len(self.labels)


def training_batches(
    data: ImageDataset,
    *,
    epoch: int,
    batch_size: int,
    random_seed: int,
    ranks: Ranks = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """Every image once, in this epoch's order; of each step every rank has its share.

    A step has `batch_size` images a rank.
    """
    order = draw_permutation(len(data), derive_seed(random_seed, "order", epoch))
    for positions in chunk_indices(order, batch_size * ranks.world_size, 2 * ranks.world_size):
        yield data.batch(positions[ranks.rank :: ranks.world_size], len(positions))


def chunk_indices(
    order: NDArray[np.int64], batch_size: int, smallest: int = 2
) -> list[NDArray[np.int64]]:
    """`order` in pieces of `batch_size`; a last piece below `smallest` joins the one before it.

    Batch norm cannot learn from a single image, and dropping it would break "every image once".
    """
    starts = list(range(0, len(order), batch_size))
    if len(starts) > 1 and len(order) - starts[-1] < min(smallest, batch_size):
        starts.pop()
    return [order[a:b] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]


def sequential_batches(
    data: ImageDataset, batch_size: int, ranks: Ranks = SINGLE_PROCESS
) -> Iterator[Batch]:
    """Every image once over all ranks, in the order of the data."""
    mine = np.arange(ranks.rank, len(data), ranks.world_size)
    for start in range(0, len(mine), batch_size):
        positions = mine[start : start + batch_size]
        yield data.batch(positions, len(positions))


_BatchQueue = queue.Queue[Batch | BaseException | None]  # None ends it


@dataclass(slots=True)
class PrefetchIterator:
    """Batches made by a thread while the caller computes, at most `depth` ahead.

    With `pin` their memory is page-locked, from which a GPU copies while it computes.
    `waited_seconds` counts how long the caller stood idle for them.
    """

    batches: Iterable[Batch]
    depth: int = 2
    pin: bool = False
    waited_seconds: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[Batch]:
        ready: _BatchQueue = queue.Queue(self.depth)
        stop = threading.Event()
        thread = threading.Thread(target=self._fill, args=(ready, stop), daemon=True)
        thread.start()
        try:
            while (item := self._next(ready)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():  # the thread may be waiting for room
                _drain_queue(ready)
                thread.join(0.01)

    def _next(self, ready: _BatchQueue) -> Batch | BaseException | None:
        started = time.perf_counter()
        item = ready.get()
        self.waited_seconds += time.perf_counter() - started
        return item

    def _fill(self, ready: _BatchQueue, stop: threading.Event) -> None:
        try:
            for batch in self.batches:
                if stop.is_set():
                    return
                ready.put(_pin_memory(batch) if self.pin else batch)
            ready.put(None)
        except BaseException as error:  # handed over, and raised where the batches are used
            ready.put(error)


def _pin_memory(batch: Batch) -> Batch:
    return replace(batch, pixels=batch.pixels.pin_memory(), labels=batch.labels.pin_memory())


def _drain_queue(ready: _BatchQueue) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
