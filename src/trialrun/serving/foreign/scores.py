"""Scores of images, collected from the answers of an MLflow model to batches of them.

Array letters: N images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trialrun.scoring.scores import ImageScore, ScoredImages
from trialrun.serving.foreign.outputs import BatchAnswers, OutputError


@dataclass(frozen=True, slots=True)
class _Answer:
    """One image's (C,) probabilities of `classes`."""

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]


@dataclass(slots=True)
class ScoreCollector:
    """Collects answers and errors in the images' order, and combines their classes."""

    _entries: list[_Answer | str] = field(default_factory=list)
    _complete_classes: set[tuple[str, ...]] = field(default_factory=set)
    _answered_classes: set[str] = field(default_factory=set)
    _has_probabilities: bool = True

    def add_batch(self, reasons: Sequence[str], answers: Sequence[BatchAnswers]) -> None:
        """Add images: one reason per image, empty for each image that `answers` has a row for.

        Raises:
            OutputError: The model's classes differ from those of an earlier batch.
        """
        for answer in answers:
            self._add_classes(answer)
        rows = (_Answer(answer.classes, row) for answer in answers for row in answer.probabilities)
        self._entries += [reason or next(rows) for reason in reasons]

    def _add_classes(self, answers: BatchAnswers) -> None:
        if answers.is_complete:
            self._complete_classes.add(answers.classes)
        else:
            self._answered_classes.update(answers.classes)
        if len(self._complete_classes) + bool(self._answered_classes) > 1:
            raise OutputError("returns other classes for some batches of images than for others")
        self._has_probabilities &= answers.has_probabilities

    def build(self, declared: tuple[str, ...] | None) -> ScoredImages:
        """Return all scores; without an answer, the classes are the `declared` ones."""
        complete = next(iter(self._complete_classes), declared or ())
        classes = tuple(sorted(self._answered_classes)) or complete
        index_of = {name: index for index, name in enumerate(classes)}
        scores = [_build_score(entry, classes, index_of) for entry in self._entries]
        return ScoredImages(classes, scores, self._has_probabilities)


def _build_score(
    entry: _Answer | str, classes: tuple[str, ...], index_of: dict[str, int]
) -> ImageScore:
    """Return the score of an image, with zero for classes that its batch does not have."""
    if isinstance(entry, str):
        return ImageScore(None, entry)
    if entry.classes == classes:
        return ImageScore(entry.probabilities)
    probabilities = np.zeros(len(classes), dtype=np.float32)
    probabilities[[index_of[name] for name in entry.classes]] = entry.probabilities
    return ImageScore(probabilities)
