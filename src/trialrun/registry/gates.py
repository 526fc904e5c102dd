"""The promotion gates: the conditions that a version must meet to take an alias.

All gates are evaluated and reported, not just the first failure. A new gate is one function in
`_CHECKS`; its setting belongs to `PromoteConfig` and its evidence, if any, to `Evidence`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trialrun.config.promote import BETTER, PromoteConfig
from trialrun.report.abstention import ANSWERED_ERROR, COVERAGE
from trialrun.report.intervals import Interval
from trialrun.report.metrics import lower_is_better
from trialrun.report.paired import PairedComparison

_SHOWN_CLASSES = 5
_ROUNDING_ERROR = 1e-12  # allowed above a limit that a difference of two floats must not exceed


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: its name, the value asked for, the value found and whether it passed."""

    name: str
    asked: str
    found: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """The number of test images that a version has used; None if that is not recorded.

    `use` completes "test images that", for example "version 2 was trained on".
    """

    use: str
    num_images: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The measurements of a challenger and, if there is one, of the champion.

    `comparison` is optional: None without a champion. `baseline` is the comparison with
    `baseline_name`, a version beside the champion; None without such a version. `answers` are the
    coverage and the error of the answers of a challenger that abstains; it is empty for one that
    answers every image. `class_sizes` are the numbers of test images (or groups) per class, and
    `attempt` is the number of attempts that the test set has judged, this one included.
    `dependences` are the reasons to believe that the test images are not independent.
    """

    metrics: Mapping[str, float]
    size_mb: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    attempt: int = 1
    answers: Mapping[str, tuple[float, Interval]] = field(default_factory=dict)
    latency_ms: float | None = None
    overlaps: tuple[Overlap, ...] = ()
    class_differences: tuple[str, ...] = ()
    comparison: PairedComparison | None = None
    baseline: PairedComparison | None = None
    baseline_name: str = ""
    recall: Mapping[str, float] = field(default_factory=dict)
    champion_recall: Mapping[str, float] = field(default_factory=dict)
    class_sizes: Mapping[str, int] = field(default_factory=dict)
    dependences: tuple[str, ...] = ()
    has_groups: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The evaluated gates of a promotion.

    `images_needed` estimates how many images the comparisons need to pass; None if they passed or
    more images would not help.
    """

    gates: tuple[Gate, ...]
    images_needed: int | None = None

    @property
    def passed(self) -> bool:
        """Whether all gates passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that did not pass."""
        return tuple(gate for gate in self.gates if not gate.passed)

    def to_json(self) -> list[dict[str, Any]]:
        """Return one dictionary per gate."""
        return [asdict(gate) for gate in self.gates]


def evaluate_gates(config: PromoteConfig, evidence: Evidence) -> Verdict:
    """Check the evidence against the settings."""
    gates = tuple(gate for check in _CHECKS for gate in check(evidence, config))
    return Verdict(gates, _estimate_images_needed(evidence, config))


def _estimate_images_needed(evidence: Evidence, config: PromoteConfig) -> int | None:
    """Return the largest number of images that a failed comparison needs; None if one cannot."""
    required = [
        (evidence.comparison, _required_difference(config)),
        (evidence.baseline, -config.margin),
    ]
    numbers = [
        comparison.images_to_show(bound)
        for comparison, bound in required
        if comparison is not None and comparison.low <= bound
    ]
    known = [number for number in numbers if number is not None]
    return max(known) if known and len(known) == len(numbers) else None


def _required_difference(config: PromoteConfig) -> float:
    """Return the bound that the true difference must exceed."""
    return 0.0 if config.require == BETTER else -config.margin


def _check_difference(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    if evidence.comparison is not None:
        bound = _required_difference(config)
        name = f"{config.metric} {config.require}"
        yield _make_difference_gate(name, evidence.comparison, bound, evidence.attempt)


def _check_baseline(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    """Check against an earlier version: many small losses must not add up."""
    if evidence.baseline is not None:
        name = f"{config.metric} not-worse than {evidence.baseline_name}"
        yield _make_difference_gate(name, evidence.baseline, -config.margin, evidence.attempt)


def _make_difference_gate(
    name: str, comparison: PairedComparison, bound: float, attempt: int
) -> Gate:
    repeated = f" (attempt {attempt} on these images)" if attempt > 1 else ""
    units = "" if comparison.num_groups is None else f" in {comparison.num_groups} groups"
    return Gate(
        name,
        f"{format_level(comparison.confidence)} interval above {bound:g}{repeated}",
        f"{comparison.difference:+.4f} [{comparison.low:+.4f}, {comparison.high:+.4f}], "
        f"{comparison.only_challenger_right} against {comparison.only_baseline_right} of "
        f"{comparison.num_images} images{units}",
        comparison.low > bound,
    )


def format_level(confidence: float) -> str:
    """Return 95%, 99.17%, 99.976%: two significant digits of the error."""
    digits = max(1 - math.floor(math.log10(1 - confidence)) - 2, 0)
    return f"{confidence:.{digits}%}"


def _check_minimums(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    minimums, estimates = config.minimums(), config.estimate_minimums()
    if not (minimums or estimates) and evidence.comparison is None:
        yield Gate("minimum", "--min METRIC=VALUE for the first champion", "none given", False)
    for metric, bound in minimums.items():
        interval = evidence.intervals[metric]
        low, high = f"{interval.low:.4f}", f"{interval.high:.4f}"
        yield _make_minimum_gate(
            metric,
            "interval",
            bound,
            interval.high if lower_is_better(metric) else interval.low,
            f"{evidence.metrics[metric]:.4f} [{low}, {high}]",
        )
    for metric, bound in estimates.items():
        value = evidence.metrics[metric]
        yield _make_minimum_gate(metric, "estimate", bound, value, f"{value:.4f}")


def _make_minimum_gate(metric: str, kind: str, bound: float, value: float, found: str) -> Gate:
    is_loss = lower_is_better(metric)
    return Gate(
        metric,
        f"{kind} at {'most' if is_loss else 'least'} {bound:g}",
        found,
        value <= bound if is_loss else value >= bound,
    )


def _check_coverage(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    if config.min_coverage is None:
        return
    asked = f"interval at least {config.min_coverage:g}"
    if not evidence.answers:
        yield Gate("coverage", asked, "1.0000, it answers every image", True)
        return
    value, interval = evidence.answers[COVERAGE]
    found = f"{value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
    if (error := evidence.answers.get(ANSWERED_ERROR)) is not None:
        found += f", {error[0]:.4f} of the answers wrong"
    yield Gate("coverage", asked, found, interval.low >= config.min_coverage)


def _check_class_drops(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    limit = config.max_class_drop
    if limit is None or evidence.comparison is None:
        return
    drops = {
        name: before - evidence.recall.get(name, 0.0)
        for name, before in evidence.champion_recall.items()
    }
    largest_first = sorted(drops, key=lambda name: -drops[name])
    too_large = [name for name in largest_first if drops[name] > limit + _ROUNDING_ERROR]
    yield Gate(
        "recall of each class",
        f"falls by at most {limit:g}",
        _list_classes([f"{name} {-drops[name]:+.4f}" for name in too_large or largest_first[:1]]),
        not too_large,
    )


def _check_class_sizes(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    """Check that each class has enough images for a drop of its recall to be noticed."""
    needed = config.min_class_images or _count_images_to_notice(config)
    if needed is None or (config.min_class_images is None and evidence.comparison is None):
        return
    units = "groups" if evidence.has_groups else "images"
    sizes = sorted(evidence.class_sizes.items(), key=lambda item: item[1])
    too_small = [f"{name} {size}" for name, size in sizes if size < needed]
    found = _list_classes(too_small or [f"{name} {size}" for name, size in sizes[:1]])
    yield Gate(
        f"{units} of each class",
        f"at least {needed}",
        f"cannot tell: {found}" if too_small else found,
        not too_small,
    )


def _count_images_to_notice(config: PromoteConfig) -> int | None:
    """Return how many images of a class show a drop of `max_class_drop`, if it is a true one.

    With fewer images, all of them may be predicted as before with a probability above the error
    probability of one side of an interval.
    """
    limit = config.max_class_drop
    if not limit or limit >= 1:
        return None
    return math.ceil(math.log((1 - config.confidence) / 2) / math.log(1 - limit))


def _list_classes(texts: list[str]) -> str:
    more = f"; {len(texts) - _SHOWN_CLASSES} more" if len(texts) > _SHOWN_CLASSES else ""
    return "; ".join(texts[:_SHOWN_CLASSES]) + more


def _check_latency(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    yield from _check_limit("latency", evidence.latency_ms, config.max_latency_ms, "ms per image")


def _check_size(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    yield from _check_limit("size", evidence.size_mb, config.max_size_mb, "MB")


def _check_limit(name: str, value: float | None, limit: float | None, unit: str) -> Iterator[Gate]:
    if limit is not None and value is not None:
        yield Gate(name, f"at most {limit:g} {unit}", f"{value:.3g}", value <= limit)


def _check_classes(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    found = "; ".join(evidence.class_differences)
    is_allowed = config.allow_class_change
    yield Gate(
        "classes",
        "may differ" if is_allowed else "the same throughout",
        found or "the same",
        is_allowed or not found,
    )


def _check_overlaps(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    for overlap in evidence.overlaps:
        count = overlap.num_images
        yield Gate(
            f"test images that {overlap.use}",
            "allowed" if config.allow_overlap else "none",
            "no record of its data" if count is None else f"{count} images",
            config.allow_overlap or count == 0,
        )


def _check_dependences(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    if evidence.has_groups or not evidence.dependences:
        return
    yield Gate(
        "independent test images",
        "assumed" if config.allow_ungrouped else "--group-column or --group-pattern",
        "; ".join(evidence.dependences),
        config.allow_ungrouped,
    )


_Check = Callable[[Evidence, PromoteConfig], Iterator[Gate]]

# In the order in which the gates are reported. A check yields nothing if its setting is not set.
_CHECKS: tuple[_Check, ...] = (
    _check_difference,
    _check_baseline,
    _check_minimums,
    _check_coverage,
    _check_class_drops,
    _check_class_sizes,
    _check_latency,
    _check_size,
    _check_classes,
    _check_overlaps,
    _check_dependences,
)
