"""The share of intervals that cover the true value of one model's metric.

The true value is that of the population, over the classes that the test set contains: an absent
class has no part in the metric.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.promotion_gate.answers import Answers, simulate_answers
from benchmarks.promotion_gate.pairs import (
    Design,
    Pair,
    compute_class_values,
    compute_value,
    count_expected,
    draw_test_set,
)
from benchmarks.promotion_gate.shares import Share, make_generator
from trialrun.report.intervals import compute_interval
from trialrun.report.metrics import BALANCED_ACCURACY, MACRO_F1

_SKEW = 0.004  # share of each of three rare classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One model and the test sets that measure it."""

    model: str
    answers: Answers
    shares_name: str
    class_shares: NDArray[np.float64]
    num_units: int
    group_size: int = 1

    @property
    def key(self) -> tuple[str, int, int]:
        """The class shares, the group size and the number of images."""
        return self.shares_name, self.group_size, self.num_units * self.group_size


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many intervals cover the true value, the mean width and the smallest width."""

    covered: Share
    mean_width: float
    min_width: float


def measure_coverage(setting: Setting, metric: str, num_test_sets: int) -> Coverage:
    """Draw test sets and compare their intervals with the true value."""
    generator = make_generator(
        (setting.model, setting.shares_name, setting.num_units, setting.group_size, metric)
    )
    pair = Pair(setting.answers, setting.answers)
    true_values = _compute_true_values(metric, setting)
    covered, widths = 0, []
    for _ in range(num_test_sets):
        sizes = generator.multinomial(setting.num_units, setting.class_shares)
        design = Design(class_sizes=sizes, is_fixed=True, group_size=setting.group_size)
        images = draw_test_set(pair, design, generator, 0)
        interval = compute_interval(metric, images.baseline, groups=images.groups)
        truth = true_values[sizes > 0].mean()
        covered += interval.low <= truth <= interval.high
        widths.append(interval.high - interval.low)
    return Coverage(Share(covered, num_test_sets), float(np.mean(widths)), min(widths))


def _compute_true_values(metric: str, setting: Setting) -> NDArray[np.float64]:
    """Return (C,) values whose average over the classes of a test set is the true value."""
    if metric in (BALANCED_ACCURACY, MACRO_F1):
        counts = count_expected(setting.answers, setting.class_shares)
        return compute_class_values(metric, counts)
    pair = Pair(setting.answers, setting.answers)
    value = compute_value(metric, pair, 0.0, setting.class_shares)
    return np.full(setting.answers.num_classes, value)


def list_settings(networks: Mapping[str, Answers]) -> Iterator[Setting]:
    """Return all settings, in the order of the table."""
    models = {f"network, {name}": networks[name] for name in ("linear", "cnn")}
    for num_classes in (2, 5, 10, 20, 100):
        for kind, signal, scale in (("weak", 1.0, 1.0), ("good", 2.5, 2.0), ("best", 4.0, 3.0)):
            models[f"{kind}, {num_classes} classes"] = simulate_answers(
                1, num_classes=num_classes, signal=signal, scale=scale, correlation=0, seed=7
            )[0]
    for model, answers in models.items():
        yield from _list_sizes(model, answers)


def _list_sizes(model: str, answers: Answers) -> Iterator[Setting]:
    num_classes = answers.num_classes
    equal = np.full(num_classes, 1 / num_classes)
    for num_units in (20, 50, 100, 1000):
        setting = Setting(
            model=model,
            answers=answers,
            shares_name="equal",
            class_shares=equal,
            num_units=num_units,
        )
        yield setting
        if num_classes >= 10:
            yield replace(setting, shares_name="skewed", class_shares=_skew(num_classes))
    if num_classes == 10:
        for num_groups in (4, 10, 50, 400):
            for group_size in (5, 20):
                yield replace(setting, num_units=num_groups, group_size=group_size)


def _skew(num_classes: int) -> NDArray[np.float64]:
    shares = np.full(num_classes, (1 - 3 * _SKEW) / (num_classes - 3))
    shares[:3] = _SKEW
    return shares
