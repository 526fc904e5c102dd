"""Batches of decoded images, in an order that depends on the seed and the epoch alone.

Tensor letters: N images in a batch, S the image size.
"""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.seeds import permutation, seed_for


class PixelSource(Protocol):
    """Decoded images by row; a pack is one."""

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, the images at `rows` in that order."""
        ...


@dataclass(frozen=True, slots=True)
class LabelledPixels:
    """What is learned from or evaluated on: the usable rows of a source and their class indices."""

    source: PixelSource
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: NDArray[np.int64]) -> "Batch":
        """The images at `positions`, counted among the usable ones."""
        pixels = self.source.pixels(self.rows[positions])
        return Batch(pixels, torch.from_numpy(self.labels[positions]), positions)


@dataclass(frozen=True, slots=True)
class Batch:
    """(N, 3, S, S) uint8 pixels, (N,) int64 labels, and which images they are."""

    pixels: Tensor
    labels: Tensor
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def training_batches(
    data: LabelledPixels, *, epoch: int, batch_size: int, random_seed: int
) -> Iterator[Batch]:
    """Every image once, in this epoch's order."""
    order = permutation(len(data), seed_for(random_seed, "order", epoch))
    for positions in cut(order, batch_size):
        yield data.batch(positions)


def cut(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """`order` in pieces of `batch_size`; a last piece of one joins the piece before it.

    Batch norm cannot learn from a single image, and dropping it would break "every image once".
    """
    starts = list(range(0, len(order), batch_size))
    if batch_size > 1 and len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    return [order[a:b] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]


def num_batches(num_images: int, batch_size: int) -> int:
    """How many pieces `cut` makes."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1 or (rest == 1 and (batch_size == 1 or full == 0)))


def ordered_batches(data: LabelledPixels, batch_size: int) -> Iterator[Batch]:
    """Every image once, in the order of the data."""
    for start in range(0, len(data), batch_size):
        yield data.batch(np.arange(start, min(start + batch_size, len(data))))


Handover = queue.Queue[Batch | BaseException | None]  # None ends it


@dataclass(slots=True)
class Prefetched:
    """Batches made by a thread while the caller computes, at most `depth` ahead.

    `waited_seconds` counts how long the caller stood idle for them.
    """

    batches: Iterable[Batch]
    depth: int = 2
    waited_seconds: float = field(default=0.0, init=False)

    def __iter__(self) -> Iterator[Batch]:
        ready: Handover = queue.Queue(self.depth)
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
                _drain(ready)
                thread.join(0.01)

    def _next(self, ready: Handover) -> Batch | BaseException | None:
        started = time.perf_counter()
        item = ready.get()
        self.waited_seconds += time.perf_counter() - started
        return item

    def _fill(self, ready: Handover, stop: threading.Event) -> None:
        try:
            for batch in self.batches:
                if stop.is_set():
                    return
                ready.put(batch)
            ready.put(None)
        except BaseException as error:  # handed over, and raised where the batches are used
            ready.put(error)


def _drain(ready: Handover) -> None:
    try:
        while True:
            ready.get_nowait()
    except queue.Empty:
        return
