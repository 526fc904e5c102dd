"""The false promotions to count: pairs of models, test sets and numbers of attempts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from benchmarks.promotion_gate.answers import (
    Answers,
    add_catastrophes,
    lower_recall,
    simulate_answers,
)
from benchmarks.promotion_gate.pairs import (
    Design,
    Pair,
    compute_difference,
    draw_test_set,
    make_sizes,
    match_difference,
)
from benchmarks.promotion_gate.shares import Share, make_generator
from trialrun.config.promote import METRICS
from trialrun.registry.judgements import spend_alpha
from trialrun.report.metrics import BALANCED_ACCURACY, LOG_LOSS, MACRO_F1
from trialrun.report.paired import compare_paired

BETTER, NOT_WORSE = "better", "not-worse"
MARGIN = 0.01
NUM_ATTEMPTS = 20

_CONFIDENCE = 0.95
_NUM_IMAGES = (2, 5, 10, 20, 50, 200, 2000, 50_000)
_RARE = 3  # classes of 3 images
_MACRO = (BALANCED_ACCURACY, MACRO_F1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A true null hypothesis: the challenger is at most as good as `bound` allows.

    `bound` is optional: None is the true difference, whatever it is.
    """

    requirement: str
    models: str
    pair: Pair
    design: Design
    bound: float | None
    is_matched: bool = False  # whether the challenger is mixed until its true difference is `bound`
    num_rare: int = 0
    attempts: int = 1
    metrics: tuple[str, ...] = METRICS

    @property
    def num_images(self) -> int:
        """Images per test set."""
        return int(self.design.class_sizes.sum()) * self.design.group_size

    @property
    def kind(self) -> str:
        """What is special about the test sets."""
        attempts = f", {self.attempts} attempts" if self.attempts > 1 else ""
        if self.num_rare:
            return f"{self.num_rare} rare{attempts}"
        return ("plain" if self.design.group_size == 1 else "groups") + attempts

    def describe(self, metric: str) -> str:
        """Return a text that differs between cases."""
        design = self.design
        return f"{self.requirement} {self.models} {metric} {self.num_images} {self.num_rare} " + (
            f"{design.group_size} {self.attempts}"
        )


def count_false_promotions(case: Case, metric: str, num_test_sets: int) -> Share:
    """Return the share of test sets on which any attempt passes."""
    generator = make_generator(case.describe(metric))
    shares = case.design.class_shares
    pair = case.pair
    if case.is_matched and case.bound is not None:
        pair = match_difference(metric, pair, shares, case.bound)
    bound = compute_difference(metric, pair, shares) if case.bound is None else case.bound
    passed = sum(_pass_any(metric, pair, case, bound, generator) for _ in range(num_test_sets))
    return Share(passed, num_test_sets)


def _pass_any(
    metric: str, pair: Pair, case: Case, bound: float, generator: np.random.Generator
) -> bool:
    images = draw_test_set(pair, case.design, generator, case.attempts)
    return any(
        compare_paired(
            metric,
            images.baseline,
            challenger,
            confidence=spend_alpha(_CONFIDENCE, attempt),
            groups=images.groups,
        ).low
        > bound
        for attempt, challenger in enumerate(images.challengers, start=1)
    )


def list_cases(networks: Mapping[str, Answers]) -> Iterator[Case]:
    """Return all cases, in the order of the table."""
    equal = _pair_equal_models(networks)
    for models, pair in equal.items():
        yield from _list_equal(models, pair)
    yield _make_trade(networks)
    for models, pair in _pair_worse_models(networks).items():
        yield from _list_worse(models, pair)
    yield from _list_rare_losses(networks["mlp"])
    yield from _list_catastrophes(networks["cnn"])


def _pair_equal_models(networks: Mapping[str, Answers]) -> dict[str, Pair]:
    """Return pairs that are exactly equally good: both toss coins between two models."""
    confident = simulate_answers(2, num_classes=10, signal=2.5, scale=6, correlation=0.8, seed=1)
    weak = simulate_answers(2, num_classes=10, signal=1.0, scale=1, correlation=0, seed=2)
    models = {
        "networks, two seeds": (networks["cnn"], networks["cnn, 2nd seed"]),
        "networks, two kinds": (networks["linear"], networks["cnn"]),
        "simulated, confident": (confident[0], confident[1]),
        "simulated, independent": (weak[0], weak[1]),
    }
    return {name: Pair(first, second, 0.5, 0.5) for name, (first, second) in models.items()}


def _list_equal(models: str, pair: Pair) -> Iterator[Case]:
    def make(num_units: int, num_rare: int = 0, group_size: int = 1, attempts: int = 1) -> Case:
        sizes = make_sizes(num_units, pair.first.num_classes, num_rare)
        return Case(
            requirement=BETTER,
            models=models,
            pair=pair,
            design=Design(class_sizes=sizes, group_size=group_size),
            bound=0.0,
            num_rare=num_rare,
            attempts=attempts,
        )

    yield from (make(number) for number in _NUM_IMAGES)
    yield from (make(number, num_rare=_RARE) for number in (50, 200, 2000, 50_000))
    for num_groups, group_size in ((4, 5), (10, 20), (50, 5), (400, 5), (100, 20)):
        yield make(num_groups, group_size=group_size)
    yield from (make(number, attempts=NUM_ATTEMPTS) for number in (50, 2000))


def _make_trade(networks: Mapping[str, Answers]) -> Case:
    """Return a challenger that gains 5 points in nine classes and loses 45 in a rare one."""
    baseline = challenger = simulate_answers(
        1, num_classes=10, signal=3, scale=2, correlation=0, seed=3
    )[0]
    for label in range(10):
        is_rare = label == 0
        baseline = lower_recall(baseline, label, 0.7 if is_rare else 0.8, seed=label)
        challenger = lower_recall(challenger, label, 0.25 if is_rare else 0.85, seed=99 - label)
    return Case(
        requirement=BETTER,
        models="gain 5 points, lose 45 in a rare class",
        pair=Pair(baseline, challenger),
        design=Design(class_sizes=make_sizes(2000, 10, 1), is_fixed=True),
        bound=None,
        num_rare=1,
        metrics=_MACRO,
    )


def _pair_worse_models(networks: Mapping[str, Answers]) -> dict[str, Pair]:
    spoilt = networks["cnn"]
    for label in range(spoilt.num_classes):
        spoilt = lower_recall(spoilt, label, 0.3, seed=label)
    return {
        "networks, 1 point worse": Pair(networks["cnn"], networks["linear"]),
        "the baseline with new errors": Pair(networks["cnn"], spoilt),
    }


def _list_worse(models: str, pair: Pair) -> Iterator[Case]:
    def make(num_units: int, num_rare: int = 0, group_size: int = 1, attempts: int = 1) -> Case:
        sizes = make_sizes(num_units, pair.first.num_classes, num_rare)
        return Case(
            requirement=NOT_WORSE,
            models=models,
            pair=pair,
            design=Design(class_sizes=sizes, is_fixed=True, group_size=group_size),
            bound=-MARGIN,
            is_matched=True,
            num_rare=num_rare,
            attempts=attempts,
        )

    yield from (make(number) for number in _NUM_IMAGES if number >= 10)
    yield from (make(number, num_rare=_RARE) for number in (200, 2000, 50_000))
    yield from (make(groups, group_size=size) for groups, size in ((50, 5), (400, 5), (100, 20)))
    yield make(2000, attempts=NUM_ATTEMPTS)


def _list_rare_losses(model: Answers) -> Iterator[Case]:
    """Return challengers whose recall of a rare class falls from 0.6 to 0.2.

    The margin is 1 point where the true loss is more, and the true loss itself.
    """
    first = lower_recall(model, 0, 0.6, seed=0)
    pair = Pair(first, lower_recall(first, 0, 0.2, seed=1))
    for num_images, rare_size in product((200, 2000), (1, 3, 6, 20)):
        sizes = make_sizes(num_images, model.num_classes, 1, rare_size)
        design = Design(class_sizes=sizes, is_fixed=True)
        losing = [
            metric
            for metric in _MACRO
            if compute_difference(metric, pair, design.class_shares) < -MARGIN
        ]
        for margin, bound, metrics in (
            ("", -MARGIN, losing),
            (", margin: true loss", None, _MACRO),
        ):
            yield Case(
                requirement=NOT_WORSE,
                models=f"recall of a class of {rare_size} from .6 to .2{margin}",
                pair=pair,
                design=design,
                bound=bound,
                num_rare=1,
                metrics=tuple(metrics),
            )


def _list_catastrophes(model: Answers) -> Iterator[Case]:
    """Return challengers whose log loss is 0.01 nats higher, because of rare images of 16 nats."""
    pair = Pair(model, add_catastrophes(model, 1.0, seed=0))
    for num_images in _NUM_IMAGES:
        yield Case(
            requirement=NOT_WORSE,
            models="rare catastrophes",
            pair=pair,
            design=Design(class_sizes=make_sizes(num_images, model.num_classes), is_fixed=True),
            bound=-MARGIN,
            is_matched=True,
            metrics=(LOG_LOSS,),
        )
