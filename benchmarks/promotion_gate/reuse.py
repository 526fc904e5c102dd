"""The ratchet: challengers that are each a little worse than the champion of the time."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.promotion_gate.answers import name_classes
from benchmarks.promotion_gate.cases import MARGIN
from trialrun.registry.history import PROMOTION, AliasEntry
from trialrun.registry.judgements import spend_alpha
from trialrun.report.metrics import ACCURACY, compute_metric
from trialrun.report.paired import compare_paired
from trialrun.report.predictions import Predictions
from trialrun.runs.promotion.baseline import CHAMPION_PREFIX, rank_holders

NUM_CHALLENGERS = 20
NUM_IMAGES = 10_000
FIRST_ACCURACY = 0.95
LOSS = 0.003  # of each challenger, compared with its champion

_NUM_CLASSES = 10
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratchet:
    """The end of a series of challengers: promotions, and the champion's true accuracy."""

    num_promoted: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class _Version:
    """A version, its true accuracy and, for all test sets, (T, N) whether it is right."""

    number: str
    accuracy: float
    is_right: NDArray[np.bool_]

    def predict(self, labels: NDArray[np.int64], test_set: int) -> Predictions:
        """Return the predictions on one of the test sets."""
        right = self.is_right[test_set]
        predicted = np.where(right, labels, (labels + 1) % _NUM_CLASSES)
        probability = np.where(right, 0.9, 0.1)
        return Predictions(name_classes(_NUM_CLASSES), labels, predicted, probability)


def run_ratchet(seed: int, churn: float, *, is_reused: bool, has_baseline: bool) -> Ratchet:
    """Judge the challengers one after the other with `not-worse`.

    Args:
        seed: Of the random numbers.
        churn: The share of images that only the champion or only the challenger gets right.
        is_reused: Whether all are judged on the same images, else each on new ones.
        has_baseline: Whether the best earlier champion is compared too.
    """
    generator = np.random.default_rng(seed)
    num_sets = 1 if is_reused else NUM_CHALLENGERS
    labels = generator.integers(0, _NUM_CLASSES, NUM_IMAGES)
    is_right = generator.random((num_sets, NUM_IMAGES)) < FIRST_ACCURACY
    champion = _Version("0", FIRST_ACCURACY, is_right)
    holders, entries = {"0": champion}, [_make_entry("0", None, {})]
    for attempt in range(1, NUM_CHALLENGERS + 1):
        challenger = _make_worse(champion, str(attempt), churn, generator)
        rivals = [champion, holders[rank_holders(entries, ACCURACY)[0]]][: 1 + has_baseline]
        test_set = 0 if is_reused else attempt - 1
        before, after, *others = (
            version.predict(labels, test_set) for version in (champion, challenger, *rivals[1:])
        )
        confidence = spend_alpha(_CONFIDENCE, attempt if is_reused else 1)
        if _is_not_worse(after, [before, *others], confidence):
            entries.append(_make_entry(challenger.number, champion.number, _measure(before, after)))
            champion = holders[challenger.number] = challenger
    return Ratchet(len(holders) - 1, champion.accuracy)


def _is_not_worse(after: Predictions, rivals: list[Predictions], confidence: float) -> bool:
    comparisons = (
        compare_paired(ACCURACY, rival, after, confidence=confidence) for rival in rivals
    )
    return all(comparison.low > -MARGIN for comparison in comparisons)


def _measure(before: Predictions, after: Predictions) -> dict[str, float]:
    """Return the figures that the history keeps of a promotion."""
    return {
        ACCURACY: compute_metric(ACCURACY, after),
        CHAMPION_PREFIX + ACCURACY: compute_metric(ACCURACY, before),
    }


def _make_worse(
    champion: _Version, number: str, churn: float, generator: np.random.Generator
) -> _Version:
    """Return a version that loses LOSS in all: (churn + LOSS) / 2 lost, (churn - LOSS) / 2 won."""
    accuracy = champion.accuracy
    lost, won = (churn + LOSS) / 2 / accuracy, (churn - LOSS) / 2 / (1 - accuracy)
    chance = np.where(champion.is_right, 1 - lost, won)
    is_right = generator.random(chance.shape) < chance
    return replace(champion, number=number, accuracy=accuracy - LOSS, is_right=is_right)


def _make_entry(version: str, replaced: str | None, figures: dict[str, float]) -> AliasEntry:
    return AliasEntry(
        number=int(version),
        kind=PROMOTION,
        version=version,
        replaced=replaced,
        at=None,
        user=None,
        reason="",
        figures=figures,
    )
