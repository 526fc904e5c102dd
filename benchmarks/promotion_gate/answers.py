"""Answers of one model on a population of images, from which test sets are drawn.

Array letters: N images, C classes.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from trialrun.report.predictions import Predictions

Indices = NDArray[np.int64]

_NO_PROBABILITY = 1e-7  # of the label in a catastrophic answer; the log loss is the largest


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one model on the N images of a population, sorted by label.

    `predicted` and `label_probability` are (N,); `first_of_class` is (C + 1,), the position of each
    class's first image.
    """

    first_of_class: Indices
    predicted: Indices
    label_probability: NDArray[np.float64]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.first_of_class) - 1

    @property
    def class_sizes(self) -> Indices:
        """(C,) numbers of images."""
        return np.diff(self.first_of_class)

    @property
    def labels(self) -> Indices:
        """(N,) labels, ascending."""
        return np.repeat(np.arange(self.num_classes), self.class_sizes)

    def to_predictions(self) -> Predictions:
        """Return the whole population as predictions."""
        names = name_classes(self.num_classes)
        return Predictions(names, self.labels, self.predicted, self.label_probability)


def name_classes(num_classes: int) -> tuple[str, ...]:
    """Return names whose order is that of the indices."""
    return tuple(f"{index:03}" for index in range(num_classes))


def sort_answers(
    labels: Indices, predicted: Indices, label_probability: NDArray[np.float64], num_classes: int
) -> Answers:
    """Return answers on (N,) images, in the stable order of the labels."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels, minlength=num_classes)
    first = np.concatenate([[0], np.cumsum(sizes)])
    return Answers(first, predicted[order], label_probability[order])


def simulate_answers(
    num_models: int,
    *,
    num_classes: int,
    signal: float,
    scale: float,
    correlation: float,
    seed: int,
    num_images: int = 100_000,
) -> list[Answers]:
    """Return answers of models whose logits are normal, with `signal` added for the label.

    Args:
        num_models: Equally good models.
        num_classes: Classes of equal size.
        signal: Added to the logit of the label, in standard deviations: sets the accuracy.
        scale: The standard deviation of the logits: sets the confidence.
        correlation: Between the logits of two models for the same image, from 0 to 1.
        seed: Of the random numbers.
        num_images: In the population.
    """
    generator = np.random.default_rng(seed)
    labels = np.sort(np.arange(num_images) % num_classes)
    rows = np.arange(num_images)
    shape = num_images, num_classes
    common = generator.standard_normal(shape, np.float32) * np.sqrt(correlation)
    models = []
    for _ in range(num_models):
        own = generator.standard_normal(shape, np.float32)
        logits = common + own * np.sqrt(1 - correlation)
        logits[rows, labels] += signal
        probability = np.exp(log_softmax(scale * logits.astype(np.float64), axis=1))
        predicted = logits.argmax(axis=1)
        models.append(sort_answers(labels, predicted, probability[rows, labels], num_classes))
    return models


def lower_recall(answers: Answers, label: int, recall: float, seed: int) -> Answers:
    """Make right answers of one class wrong, so that its recall is `recall`.

    Raises:
        ValueError: The recall is lower already.
    """
    generator = np.random.default_rng(seed)
    first, last = answers.first_of_class[label : label + 2]
    right = first + np.flatnonzero(answers.predicted[first:last] == label)
    num_wrong = len(right) - round(recall * (last - first))
    if num_wrong < 0:
        raise ValueError(f"the recall is already {len(right) / (last - first):.3f}")
    rows = generator.choice(right, num_wrong, replace=False)
    shifts = generator.integers(1, answers.num_classes, num_wrong)
    predicted, probability = answers.predicted.copy(), answers.label_probability.copy()
    predicted[rows] = (label + shifts) % answers.num_classes
    probability[rows] = np.minimum(probability[rows], 1 - probability[rows]) / 2
    return replace(answers, predicted=predicted, label_probability=probability)


def add_catastrophes(answers: Answers, share: float, seed: int) -> Answers:
    """Give the label no probability on a share of the images; the predicted classes stay."""
    chosen = np.random.default_rng(seed).random(len(answers.predicted)) < share
    probability = np.where(chosen, _NO_PROBABILITY, answers.label_probability)
    return replace(answers, label_probability=probability)
