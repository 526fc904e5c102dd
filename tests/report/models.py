"""Pairs of models for the tests of statistics."""

import numpy as np
from numpy.typing import NDArray

from trialrun.report.predictions import Predictions

CLASSES = tuple("0123456789")


def make_predictions(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], probability: float = 0.8
) -> Predictions:
    """Return predictions that give the label `probability` if right, else the rest."""
    label_probability = np.where(labels == predicted, probability, 1 - probability)
    return Predictions(CLASSES, labels, predicted, label_probability)


def make_pair(seed: int, num_images: int, gain: float = 0.0) -> tuple[Predictions, Predictions]:
    """Return two models with independent errors: most images are easy, some are hard."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, num_images)
    easy = generator.random(num_images) < 0.8
    chances = (np.where(easy, 0.99, hard) for hard in (0.5, 0.5 + gain / 0.2))
    first, second = (_answer(generator, labels, chance) for chance in chances)
    return first, second


def _answer(
    generator: np.random.Generator, labels: NDArray[np.int64], chance: NDArray[np.float64]
) -> Predictions:
    """Return predictions that are right on image n with probability `chance[n]`, else random."""
    right = generator.random(len(labels)) < chance
    wrong = (labels + generator.integers(1, 10, len(labels))) % 10
    probability = np.where(right, 0.5 + 0.5 * chance, 0.4 * chance)
    return Predictions(CLASSES, labels, np.where(right, labels, wrong), probability + 1e-3)


def select_images(predictions: Predictions, rows: NDArray[np.int64]) -> Predictions:
    """Return the predictions on some of the images."""
    return Predictions(
        predictions.classes,
        predictions.labels[rows],
        predictions.predicted[rows],
        predictions.label_probability[rows],
    )
