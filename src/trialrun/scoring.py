"""Images to class probabilities, the same for bulk scoring and for serving.

Tensor letters: N images, C classes, S the image size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.errors import first_line
from trialrun.images.header import UndecodableError
from trialrun.images.workers import TOO_SLOW, in_order, num_threads
from trialrun.models.classifier import ImageClassifier

LABEL_COLUMN = "Scored Labels"
PROBABILITY_PREFIX = "Scored Probabilities_"

_BATCH_IMAGES = 32
_BATCH_PIXELS = _BATCH_IMAGES * 512**2  # for networks that take images as they are
_NO_NUMBER = "the network's answer is no number"


@dataclass(frozen=True, slots=True)
class Score:
    """One image's (C,) float32 probabilities, or `error` saying why there are none."""

    probabilities: NDArray[np.float32] | None
    error: str = ""


def probability_columns(classes: Iterable[str]) -> list[str]:
    """The names of the probability columns, in the classes' order."""
    return [PROBABILITY_PREFIX + name for name in classes]


def score(classifier: ImageClassifier, images: Iterable[bytes | None]) -> Iterator[Score]:
    """A score an image, in order; `None` stands for an image that could not be read."""
    batch: list[Tensor | str] = []
    num_pixels = 0
    decode = partial(_pixels, classifier)
    for pixels in in_order(decode, images, threads=num_threads(), late=lambda _: TOO_SLOW):
        batch.append(pixels)
        num_pixels += 0 if isinstance(pixels, str) else pixels[0].numel()
        if len(batch) == _BATCH_IMAGES or num_pixels >= _BATCH_PIXELS:
            yield from _scored(classifier, batch)
            batch, num_pixels = [], 0
    yield from _scored(classifier, batch)


def _pixels(classifier: ImageClassifier, data: bytes | None) -> Tensor | str:
    if data is None:
        return "cannot be read"
    try:
        return classifier.preprocessing.pixels(data)
    except UndecodableError as error:
        return str(error)


def _scored(classifier: ImageClassifier, batch: list[Tensor | str]) -> Iterator[Score]:
    """Scores of a batch; neighbours of one size are computed together."""
    for _, same_size in groupby(batch, key=lambda x: x if isinstance(x, str) else x.shape):
        group = list(same_size)
        if isinstance(group[0], str):
            yield from (Score(None, str(reason)) for reason in group)
            continue
        pixels = torch.stack([image for image in group if isinstance(image, Tensor)])
        yield from _of_one_size(classifier, pixels)


def _of_one_size(classifier: ImageClassifier, pixels: Tensor) -> list[Score]:
    try:
        rows = _probabilities(classifier, pixels)
    except RuntimeError as error:
        if classifier.preprocessing.image_size is not None:
            raise  # a size that was tried when the network was made
        height, width = pixels.shape[-2:]
        reason = f"the network does not take {width} by {height} pixels: {first_line(error)}"
        return [Score(None, reason)] * len(pixels)
    return [Score(row) if np.isfinite(row).all() else Score(None, _NO_NUMBER) for row in rows]


def _probabilities(classifier: ImageClassifier, pixels: Tensor) -> NDArray[np.float32]:
    """(N, 3, S, S) uint8 to (N, C) float32, each row summing to 1."""
    device = next(classifier.parameters()).device
    with torch.inference_mode():
        images = classifier.preprocessing.normalised(pixels.to(device))
        probabilities: Tensor = classifier(images).softmax(dim=1)
    return probabilities.cpu().numpy()
