"""From encoded images to class probabilities: decoding in threads, computing in batches.

Tensor letters: N images, C classes, F features, S the image size.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.errors import summarize_error
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.thread_pool import TIMEOUT_REASON, count_threads, map_in_order
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.scores import ImageScore

Item = TypeVar("Item")

_DEFAULT_BATCH_SIZE = 32
_MAX_BATCH_PIXELS = 32 * 512**2  # for networks that take images at their own size
_NON_FINITE = "the network's output is NaN or infinite"


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How images are distributed: the batch size, and the batches computed at the same time.

    Each of several streams computes with its own `num_threads` threads of torch, so that no stream
    waits for another. One stream computes in the calling thread, with all of torch's threads. A
    decoding thread takes `chunk_size` images at once.
    """

    batch_size: int = _DEFAULT_BATCH_SIZE
    num_streams: int = 1
    num_threads: int = 1
    chunk_size: int = 1


def _ignore_pixels(_pixels: Tensor | str) -> None: ...


def score_images(
    network: ScoringNetwork,
    images: Iterable[bytes | None],
    *,
    observe: Callable[[Tensor | str], None] = _ignore_pixels,
    plan: BatchPlan | None = None,
) -> Iterator[ImageScore]:
    """Yield one score per image, in order; `None` is an image that could not be read.

    `observe` is called with the (3, S, S) uint8 pixels of each image, in order, or with the reason
    why it could not be decoded. Without a `plan`, each batch is computed as fast as possible.
    """
    decode = partial(_decode_image, network)
    for batch in score_batches(network, images, decode, plan or BatchPlan(), observe=observe):
        yield from batch


def score_batches(
    network: ScoringNetwork,
    items: Iterable[Item],
    decode: Callable[[Item], Tensor | str],
    plan: BatchPlan,
    *,
    observe: Callable[[Tensor | str], None] = _ignore_pixels,
) -> Iterator[list[ImageScore]]:
    """Yield the scores of each batch, in the items' order; decoding and computing overlap.

    `decode` is called in several threads. It returns (3, S, S) uint8 pixels, or the reason why
    there are none. The batches depend on the items and on `plan` alone.
    """
    images = map_in_order(
        decode,
        items,
        threads=count_threads(),
        on_timeout=lambda _: TIMEOUT_REASON,
        chunk_size=plan.chunk_size,
    )
    batches = _form_batches(images, plan.batch_size, observe)
    if plan.num_streams == 1:
        yield from (score_batch(network, batch) for batch in batches)
        return
    num_threads = torch.get_num_threads()
    try:
        yield from map_in_order(
            partial(_score_in_stream, network, plan.num_threads),
            batches,
            threads=plan.num_streams,
            on_timeout=lambda _: [],
            timeout_seconds=math.inf,
            max_jobs=plan.num_streams + 1,
        )
    finally:
        torch.set_num_threads(num_threads)  # new threads take the number that was set last


def _form_batches(
    images: Iterable[Tensor | str], batch_size: int, observe: Callable[[Tensor | str], None]
) -> Iterator[list[Tensor | str]]:
    """Yield batches of `batch_size` images, and fewer if they are large; call `observe`."""
    batch: list[Tensor | str] = []
    num_pixels = 0
    for pixels in images:
        observe(pixels)
        batch.append(pixels)
        num_pixels += 0 if isinstance(pixels, str) else pixels[0].numel()
        if len(batch) == batch_size or num_pixels >= _MAX_BATCH_PIXELS:
            yield batch
            batch, num_pixels = [], 0
    if batch:
        yield batch


def _score_in_stream(
    network: ScoringNetwork, num_threads: int, batch: list[Tensor | str]
) -> list[ImageScore]:
    if torch.get_num_threads() != num_threads:  # OpenMP's number belongs to the calling thread
        torch.set_num_threads(num_threads)
    return score_batch(network, batch)


def _decode_image(network: ScoringNetwork, data: bytes | None) -> Tensor | str:
    """Return the image's pixels, or the reason why it could not be decoded."""
    if data is None:
        return "cannot be read"
    try:
        return network.preprocessing.decode(data)
    except UndecodableError as error:
        return str(error)


def score_batch(network: ScoringNetwork, batch: list[Tensor | str]) -> list[ImageScore]:
    """Score pixels or reasons why there are none; consecutive images of one size together."""
    groups = groupby(batch, key=lambda x: x if isinstance(x, str) else x.shape)
    outputs = [_compute_rows(network, list(group)) for _, group in groups]
    rows = iter(_fetch_rows([output for output in outputs if isinstance(output, Tensor)]))
    num_classes = len(network.classes)
    scores: list[ImageScore] = []
    for output in outputs:
        if isinstance(output, Tensor):
            scores += [_make_score(row, num_classes) for row in islice(rows, len(output))]
        else:
            scores += output
    return scores


def _compute_rows(network: ScoringNetwork, group: list[Tensor | str]) -> Tensor | list[ImageScore]:
    """Return (N, C) float32 on the device, or (N, C + F) with features, or scores with errors.

    `group` holds images of one size, or copies of one reason why images could not be decoded.
    """
    if isinstance(group[0], str):
        return [ImageScore(None, str(reason)) for reason in group]
    pixels = stack_pixels([image for image in group if isinstance(image, Tensor)])
    try:
        return network.compute_probabilities(pixels)
    except RuntimeError as error:
        is_gpu_error = isinstance(error, torch.AcceleratorError)
        if is_gpu_error or network.preprocessing.image_size is not None:
            raise  # a fixed size was tested when the network was made
        height, width = pixels.shape[-2:]
        reason = f"the network does not accept {width} by {height} pixels: {summarize_error(error)}"
        return [ImageScore(None, reason)] * len(pixels)


def stack_pixels(images: list[Tensor]) -> Tensor:
    """Stack (3, S, S) uint8 images to (N, 3, S, S), channels last in memory as networks need it.

    In NumPy, as `torch.stack` would change the memory order.
    """
    stacked = np.stack([image.numpy().transpose(1, 2, 0) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def _fetch_rows(outputs: list[Tensor]) -> NDArray[np.float32]:
    """Copy all rows to the CPU at once, so the host waits for the device only once."""
    if not outputs:
        return np.empty((0, 0), dtype=np.float32)
    return torch.cat(outputs).cpu().numpy()


def _make_score(row: NDArray[np.float32], num_classes: int) -> ImageScore:
    """Return the score in a row of probabilities, which features may follow."""
    if not np.isfinite(row).all():
        return ImageScore(None, _NON_FINITE)
    has_features = len(row) > num_classes
    return ImageScore(row[:num_classes], features=row[num_classes:] if has_features else None)
