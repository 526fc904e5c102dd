"""Class probabilities of encoded images, the same for bulk scoring and for serving.

Tensor letters: N images, C classes, S the image size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.engine.compute.device import to_device
from trialrun.engine.compute.torch_errors import translate_scoring_errors
from trialrun.engine.compute.torch_state import use_full_fp32
from trialrun.errors import summarize_error
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.thread_pool import TIMEOUT_REASON, count_threads, map_in_order
from trialrun.models.classifier import ImageClassifier

LABEL_COLUMN = "Scored Labels"
_PROBABILITY_PREFIX = "Scored Probabilities_"

_BATCH_IMAGES = 32
_BATCH_PIXELS = _BATCH_IMAGES * 512**2  # for networks that take images at their own size
_NON_FINITE = "the network's output is NaN or infinite"


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image's (C,) float32 probabilities; None if scoring failed, for the reason `error`."""

    probabilities: NDArray[np.float32] | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ScoredImages:
    """The scores of images in their order, and the classes of their probabilities.

    A model that returns only labels has one-hot probabilities, and `has_probabilities` is false.
    """

    classes: tuple[str, ...]
    scores: Sequence[ImageScore]
    has_probabilities: bool = True


def probability_columns(classes: Iterable[str]) -> list[str]:
    """Return the names of the probability columns, in the classes' order."""
    return [_PROBABILITY_PREFIX + name for name in classes]


def _ignore_pixels(_pixels: Tensor | str) -> None: ...


def score_images(
    classifier: ImageClassifier,
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
    decode = partial(_decode_image, classifier)
    for pixels in map_in_order(
        decode, images, threads=count_threads(), on_timeout=lambda _: TIMEOUT_REASON
    ):
        observe(pixels)
        batch.append(pixels)
        num_pixels += 0 if isinstance(pixels, str) else pixels[0].numel()
        if len(batch) == _BATCH_IMAGES or num_pixels >= _BATCH_PIXELS:
            yield from _score_batch(classifier, batch)
            batch, num_pixels = [], 0
    yield from _score_batch(classifier, batch)


def _decode_image(classifier: ImageClassifier, data: bytes | None) -> Tensor | str:
    """Return the image's pixels, or the reason why it could not be decoded."""
    if data is None:
        return "cannot be read"
    try:
        return classifier.preprocessing.decode(data)
    except UndecodableError as error:
        return str(error)


def _score_batch(classifier: ImageClassifier, batch: list[Tensor | str]) -> Iterator[ImageScore]:
    """Score a batch; consecutive images of one size are computed together."""
    groups = groupby(batch, key=lambda x: x if isinstance(x, str) else x.shape)
    outputs = [_compute_probabilities(classifier, list(group)) for _, group in groups]
    rows = iter(_fetch_rows([output for output in outputs if isinstance(output, Tensor)]))
    for output in outputs:
        if isinstance(output, Tensor):
            yield from (_check_finite(row) for row in islice(rows, len(output)))
        else:
            yield from output


def _compute_probabilities(
    classifier: ImageClassifier, group: list[Tensor | str]
) -> Tensor | list[ImageScore]:
    """Return (N, C) float32 on the device, each row summing to 1, or scores with errors.

    `group` holds images of one size, or copies of one reason why images could not be decoded.
    """
    if isinstance(group[0], str):
        return [ImageScore(None, str(reason)) for reason in group]
    pixels = torch.stack([image for image in group if isinstance(image, Tensor)])
    try:
        return _run_network(classifier, pixels)
    except RuntimeError as error:
        is_gpu_error = isinstance(error, torch.AcceleratorError)
        if is_gpu_error or classifier.preprocessing.image_size is not None:
            raise  # a fixed size was tested when the network was made
        height, width = pixels.shape[-2:]
        reason = f"the network does not accept {width} by {height} pixels: {summarize_error(error)}"
        return [ImageScore(None, reason)] * len(pixels)


def _run_network(classifier: ImageClassifier, pixels: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 to (N, C) float32 on the classifier's device."""
    device = _find_device(classifier)
    with translate_scoring_errors(device), use_full_fp32(device), torch.inference_mode():
        images = classifier.preprocessing.normalised(to_device(pixels, device))
        probabilities: Tensor = classifier(images).softmax(dim=1)
    return probabilities


def _fetch_rows(outputs: list[Tensor]) -> NDArray[np.float32]:
    """Copy all rows to the CPU at once, so the host waits for the device only once."""
    if not outputs:
        return np.empty((0, 0), dtype=np.float32)
    return torch.cat(outputs).cpu().numpy()


def _check_finite(row: NDArray[np.float32]) -> ImageScore:
    return ImageScore(row) if np.isfinite(row).all() else ImageScore(None, _NON_FINITE)


def move_classifier(classifier: ImageClassifier, device: torch.device) -> ImageClassifier:
    """Move the classifier to `device`, where `score_images` will compute, and return it.

    Raises:
        OutOfMemoryError: It does not fit in the device's memory.
    """
    with translate_scoring_errors(device):
        return classifier.to(device)


def _find_device(classifier: ImageClassifier) -> torch.device:
    return next(classifier.parameters()).device
