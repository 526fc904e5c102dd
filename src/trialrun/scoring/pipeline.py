"""From encoded images to class probabilities: decoding in threads, computing in batches.

Tensor letters: N images, C classes, S the image size.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.errors import summarize_error
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.thread_pool import TIMEOUT_REASON, count_threads, map_in_order
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.scores import ImageScore

_BATCH_IMAGES = 32
_BATCH_PIXELS = _BATCH_IMAGES * 512**2  # for networks that take images at their own size
_NON_FINITE = "the network's output is NaN or infinite"


def _ignore_pixels(_pixels: Tensor | str) -> None: ...


def score_images(
    network: ScoringNetwork,
    images: Iterable[bytes | None],
    *,
    observe: Callable[[Tensor | str], None] = _ignore_pixels,
) -> Iterator[ImageScore]:
    """Yield one score per image, in order; `None` is an image that could not be read.

    `observe` is called with the (3, S, S) uint8 pixels of each image, in order, or with the reason
    why it could not be decoded.
    """
    batch: list[Tensor | str] = []
    num_pixels = 0
    decode = partial(_decode_image, network)
    for pixels in map_in_order(
        decode, images, threads=count_threads(), on_timeout=lambda _: TIMEOUT_REASON
    ):
        observe(pixels)
        batch.append(pixels)
        num_pixels += 0 if isinstance(pixels, str) else pixels[0].numel()
        if len(batch) == _BATCH_IMAGES or num_pixels >= _BATCH_PIXELS:
            yield from _score_batch(network, batch)
            batch, num_pixels = [], 0
    yield from _score_batch(network, batch)


def _decode_image(network: ScoringNetwork, data: bytes | None) -> Tensor | str:
    """Return the image's pixels, or the reason why it could not be decoded."""
    if data is None:
        return "cannot be read"
    try:
        return network.preprocessing.decode(data)
    except UndecodableError as error:
        return str(error)


def _score_batch(network: ScoringNetwork, batch: list[Tensor | str]) -> Iterator[ImageScore]:
    """Score a batch; consecutive images of one size are computed together."""
    groups = groupby(batch, key=lambda x: x if isinstance(x, str) else x.shape)
    outputs = [_compute_probabilities(network, list(group)) for _, group in groups]
    rows = iter(_fetch_rows([output for output in outputs if isinstance(output, Tensor)]))
    for output in outputs:
        if isinstance(output, Tensor):
            yield from (_check_finite(row) for row in islice(rows, len(output)))
        else:
            yield from output


def _compute_probabilities(
    network: ScoringNetwork, group: list[Tensor | str]
) -> Tensor | list[ImageScore]:
    """Return (N, C) float32 on the device, each row summing to 1, or scores with errors.

    `group` holds images of one size, or copies of one reason why images could not be decoded.
    """
    if isinstance(group[0], str):
        return [ImageScore(None, str(reason)) for reason in group]
    pixels = torch.stack([image for image in group if isinstance(image, Tensor)])
    try:
        return network.compute_probabilities(pixels)
    except RuntimeError as error:
        is_gpu_error = isinstance(error, torch.AcceleratorError)
        if is_gpu_error or network.preprocessing.image_size is not None:
            raise  # a fixed size was tested when the network was made
        height, width = pixels.shape[-2:]
        reason = f"the network does not accept {width} by {height} pixels: {summarize_error(error)}"
        return [ImageScore(None, reason)] * len(pixels)


def _fetch_rows(outputs: list[Tensor]) -> NDArray[np.float32]:
    """Copy all rows to the CPU at once, so the host waits for the device only once."""
    if not outputs:
        return np.empty((0, 0), dtype=np.float32)
    return torch.cat(outputs).cpu().numpy()


def _check_finite(row: NDArray[np.float32]) -> ImageScore:
    return ImageScore(row) if np.isfinite(row).all() else ImageScore(None, _NON_FINITE)
