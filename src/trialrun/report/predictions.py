"""What a model said of labelled images, as far as metrics need it.

Array letters: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Predictions:
    """One model's answers on N labelled images; labels and answers are indices into `classes`.

    `label_probability` is what the model gave the true class, 0 where it does not know that class.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    label_probability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the answer is the label."""
        right: NDArray[np.bool_] = self.labels == self.predicted
        return right


def build_predictions(
    labels: Sequence[str], model_classes: Sequence[str], probabilities: NDArray[np.float32]
) -> Predictions:
    """Predictions out of (N, C) probabilities; classes are matched by name.

    Raises:
        ValueError: `labels` and `probabilities` disagree on N.
    """
    if len(labels) != len(probabilities):
        raise ValueError(f"{len(labels)} labels for {len(probabilities)} rows of probabilities")
    classes = tuple(sorted({*labels, *model_classes}))
    place = {name: index for index, name in enumerate(classes)}
    of_model = np.array([place[name] for name in model_classes], dtype=np.int64)
    label_indices = np.array([place[name] for name in labels], dtype=np.int64)
    spread = np.zeros((len(labels), len(classes)), dtype=np.float32)
    spread[:, of_model] = probabilities
    return Predictions(
        classes,
        label_indices,
        of_model[probabilities.argmax(axis=1)],
        spread[np.arange(len(labels)), label_indices].astype(np.float64),
    )


def align_classes(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Both under one list of classes, the union of theirs.

    Raises:
        ValueError: They are not about the same labelled images.
    """
    classes = tuple(sorted({*first.classes, *second.classes}))
    moved = _map_to_classes(first, classes), _map_to_classes(second, classes)
    if not np.array_equal(moved[0].labels, moved[1].labels):
        raise ValueError("the predictions are not about the same labelled images")
    return moved


def _map_to_classes(given: Predictions, classes: tuple[str, ...]) -> Predictions:
    if given.classes == classes:
        return given
    place = {name: index for index, name in enumerate(classes)}
    moved = np.array([place[name] for name in given.classes], dtype=np.int64)
    return Predictions(
        classes, moved[given.labels], moved[given.predicted], given.label_probability
    )
