"""Predictions of a model on labelled images, reduced to what the metrics need.

Array letters: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TOP = 5


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions of one model on N labelled images.

    `labels` and `predicted` are (N,) indices into `classes`. `label_probability` is the (N,)
    probability of the true class, 0 if the model does not have that class. `confidence` is the (N,)
    probability of the predicted class; None if it is unknown. `in_top5` is (N,) whether the label
    is among the five most probable classes; None if that is unknown or there are fewer classes.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    label_probability: NDArray[np.float64]
    confidence: NDArray[np.float64] | None = None
    in_top5: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the predicted class is the label."""
        right: NDArray[np.bool_] = self.labels == self.predicted
        return right


def build_predictions(
    labels: Sequence[str], model_classes: Sequence[str], probabilities: NDArray[np.float32]
) -> Predictions:
    """Build predictions from (N, C) probabilities; classes are matched by name.

    Raises:
        ValueError: `labels` and `probabilities` disagree on N.
    """
    if len(labels) != len(probabilities):
        raise ValueError(f"{len(labels)} labels for {len(probabilities)} rows of probabilities")
    classes = tuple(sorted({*labels, *model_classes}))
    index_of = {name: index for index, name in enumerate(classes)}
    model_indices = np.array([index_of[name] for name in model_classes], dtype=np.int64)
    label_indices = np.array([index_of[name] for name in labels], dtype=np.int64)
    all_probabilities = np.zeros((len(labels), len(classes)), dtype=np.float32)
    all_probabilities[:, model_indices] = probabilities
    label_probability = all_probabilities[np.arange(len(labels)), label_indices]
    num_higher = (probabilities > label_probability[:, None]).sum(axis=1)
    return Predictions(
        classes,
        label_indices,
        model_indices[probabilities.argmax(axis=1)],
        label_probability.astype(np.float64),
        probabilities.max(axis=1).astype(np.float64),
        None if len(model_classes) < _TOP else (num_higher < _TOP) & (label_probability > 0),
    )


def align_classes(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """Return both predictions with one list of classes, the union of theirs.

    Raises:
        ValueError: They are for different labelled images.
    """
    classes = tuple(sorted({*first.classes, *second.classes}))
    first, second = _map_to_classes(first, classes), _map_to_classes(second, classes)
    if not np.array_equal(first.labels, second.labels):
        raise ValueError("the predictions are not for the same labelled images")
    return first, second


def _map_to_classes(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    if predictions.classes == classes:
        return predictions
    index_of = {name: index for index, name in enumerate(classes)}
    new_indices = np.array([index_of[name] for name in predictions.classes], dtype=np.int64)
    return Predictions(
        classes,
        new_indices[predictions.labels],
        new_indices[predictions.predicted],
        predictions.label_probability,
        predictions.confidence,
        predictions.in_top5,
    )
