"""The share of true gains that `better` promotes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.promotion_gate.answers import Answers, simulate_answers
from benchmarks.promotion_gate.pairs import (
    Design,
    Pair,
    compute_difference,
    draw_test_set,
    make_sizes,
)
from benchmarks.promotion_gate.shares import Share, make_generator
from trialrun.report.metrics import ACCURACY
from trialrun.report.paired import compare_paired

GAINS = ((2000, 0.03), (50_000, 0.01))  # images per test set, gain in accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A challenger whose accuracy is higher by `gain`; the other metrics follow."""

    models: str
    pair: Pair
    num_images: int
    gain: float

    @property
    def design(self) -> Design:
        """Test sets of classes of equal size."""
        return Design(class_sizes=make_sizes(self.num_images, self.pair.first.num_classes))

    def compute_accuracy(self) -> float:
        """Return the baseline's accuracy."""
        predictions = self.pair.first.to_predictions()
        return float(predictions.right.mean())

    def compute_disagreement(self) -> float:
        """Return the share of images on which one answer is right and the other is wrong."""
        first, second = (
            model.to_predictions().right for model in (self.pair.first, self.pair.second)
        )
        before, after = self.pair.baseline_share, self.pair.challenger_share
        different_coins = before * (1 - after) + after * (1 - before)
        return float((first != second).mean()) * different_coins

    def compute_difference(self, metric: str) -> float:
        """Return the true difference."""
        return compute_difference(metric, self.pair, self.design.class_shares)


def count_promotions(gain: Gain, metric: str, num_test_sets: int) -> Share:
    """Return the share of test sets on which the challenger is `better`."""
    generator = make_generator((gain.models, gain.num_images, metric))
    passed = 0
    for _ in range(num_test_sets):
        images = draw_test_set(gain.pair, gain.design, generator)
        passed += compare_paired(metric, images.baseline, images.challengers[0]).low > 0
    return Share(passed, num_test_sets)


def list_gains(networks: Mapping[str, Answers]) -> Iterator[Gain]:
    """Return all gains, in the order of the table."""
    for num_images, gain in GAINS:
        for models, pair in _pair_models(networks).items():
            yield Gain(
                models=models, pair=_mix_models(pair, gain), num_images=num_images, gain=gain
            )


def _mix_models(pair: Pair, gain: float) -> Pair:
    """Return the pair whose accuracies differ by `gain`, with as many disagreements as possible.

    Both toss a coin between the two models: the more the models differ, the less the coins do.
    """
    num_classes = pair.first.num_classes
    shares = np.full(num_classes, 1 / num_classes)
    bias = min(gain / compute_difference(ACCURACY, pair, shares), 1.0) / 2
    return replace(pair, baseline_share=0.5 - bias, challenger_share=0.5 + bias)


def _pair_models(networks: Mapping[str, Answers]) -> dict[str, Pair]:
    pairs = {
        f"networks, {first} and {second}": Pair(networks[first], networks[second])
        for first, second in (("cnn, 1 epoch", "cnn"), ("mlp", "cnn"), ("linear", "cnn"))
    }
    for accuracy, signal, surplus, correlation in (
        (93, 3.2, 0.35, 0.8),
        (83, 2.6, 0.15, 0.8),
        (83, 2.6, 0.15, 0.5),
        (67, 2.0, 0.11, 0.8),
        (67, 2.0, 0.11, 0.0),
    ):
        name = f"simulated, {accuracy} %, correlation {correlation:g}"
        pairs[name] = _simulate_gain(signal, surplus, correlation)
    return pairs


def _simulate_gain(signal: float, surplus: float, correlation: float) -> Pair:
    """Return a pair that differs by a little more than 3 points of accuracy."""
    first, second = (
        simulate_answers(
            2, num_classes=10, signal=strength, scale=2.0, correlation=correlation, seed=5
        )[index]
        for index, strength in enumerate((signal, signal + surplus))
    )
    return Pair(first, second)
