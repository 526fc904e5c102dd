"""Class probabilities of images, and the columns in which they are written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LABEL_COLUMN = "Scored Labels"
_PROBABILITY_PREFIX = "Scored Probabilities_"


@dataclass(frozen=True, slots=True)
class ImageScore:
    """One image's (C,) float32 probabilities; None if scoring failed, for the reason `error`.

    `features` are the (F,) float32 inputs of the network's last layer, if they were requested.
    """

    probabilities: NDArray[np.float32] | None
    error: str = ""
    features: NDArray[np.float32] | None = None


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
