"""The promotion gates: the conditions that a version must meet to take an alias.

All gates are evaluated and reported, not just the first failure. A new gate is one function in
`_CHECKS`; its setting belongs to `PromoteConfig` and its evidence, if any, to `Evidence`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trialrun.config.promote import BETTER, PromoteConfig
from trialrun.report.metrics import LOG_LOSS, lower_is_better
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
    """The number of test images that a version was trained on; None if its run has no manifest."""

    version: str
    num_trained_on: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The measurements of a challenger and, if there is one, of the champion.

    `comparison` is optional: None without a champion.
    """

    metrics: Mapping[str, float]
    size_mb: float
    latency_ms: float | None = None
    overlaps: tuple[Overlap, ...] = ()
    class_differences: tuple[str, ...] = ()
    comparison: PairedComparison | None = None
    recall: Mapping[str, float] = field(default_factory=dict)
    champion_recall: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The evaluated gates of a promotion.

    `images_needed` estimates how many images the comparison needs to pass; None if it passed or
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
    gates = _run_checks(_CHECKS, evidence, config)
    comparison = evidence.comparison
    if comparison is None:
        return Verdict(gates)
    if all(gate.passed for gate in _run_checks(_COMPARISON_CHECKS, evidence, config)):
        return Verdict(gates)
    needed = comparison.images_to_show(_required_difference(config), config.confidence)
    return Verdict(gates, needed)


def _run_checks(
    checks: "tuple[_Check, ...]", evidence: Evidence, config: PromoteConfig
) -> tuple[Gate, ...]:
    return tuple(gate for check in checks for gate in check(evidence, config))


def _required_difference(config: PromoteConfig) -> float:
    """Return the bound that the true difference must exceed."""
    return 0.0 if config.require == BETTER else -config.margin


def _check_difference(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    if (comparison := evidence.comparison) is None:
        return
    bound = _required_difference(config)
    yield Gate(
        f"{config.metric} {config.require}",
        f"{config.confidence:.0%} interval above {bound:g}",
        f"{comparison.difference:+.4f} [{comparison.low:+.4f}, {comparison.high:+.4f}]",
        comparison.low > bound,
    )


def _check_num_images(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    """Check the score interval: a bootstrap over images without disagreement has zero width."""
    comparison = evidence.comparison
    if comparison is None or config.require == BETTER:
        return
    low, bound = comparison.score_low(config.confidence), _required_difference(config)
    yield Gate(
        "enough images",
        f"score interval above {bound:g}",
        f"{low:+.4f} ({_count_disagreements(comparison)} of {comparison.num_images} images)",
        low > bound,
    )


def _check_mcnemar(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    """Check McNemar's p: with few disagreements a bootstrap interval is too narrow.

    For four images against none the interval is above 0 although p is 0.125.
    """
    comparison = evidence.comparison
    if comparison is None or config.require != BETTER or config.metric == LOG_LOSS:
        return
    level = 1 - config.confidence
    yield Gate(
        "McNemar's exact test",
        f"p at most {level:.3g}",
        f"p = {comparison.mcnemar_p:.3g} ({_count_disagreements(comparison)} images)",
        comparison.mcnemar_p <= level + _ROUNDING_ERROR
        and comparison.only_challenger_right > comparison.only_baseline_right,
    )


def _count_disagreements(comparison: PairedComparison) -> str:
    return f"{comparison.only_challenger_right} against {comparison.only_baseline_right}"


def _check_minimums(evidence: Evidence, config: PromoteConfig) -> Iterator[Gate]:
    minimums = config.minimums()
    if not minimums and evidence.comparison is None:
        yield Gate("minimum", "--min METRIC=VALUE for the first champion", "none given", False)
    for metric, bound in minimums.items():
        value = evidence.metrics[metric]
        is_loss = lower_is_better(metric)
        yield Gate(
            metric,
            f"at {'most' if is_loss else 'least'} {bound:g}",
            f"{value:.4f}",
            value <= bound if is_loss else value >= bound,
        )


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
    shown = too_large or largest_first[:1]
    yield Gate(
        "recall of each class",
        f"falls by at most {limit:g}",
        "; ".join(f"{name} {-drops[name]:+.4f}" for name in shown[:_SHOWN_CLASSES])
        + (f"; {len(shown) - _SHOWN_CLASSES} more" if len(shown) > _SHOWN_CLASSES else ""),
        not too_large,
    )


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
        count = overlap.num_trained_on
        yield Gate(
            f"test images that {overlap.version} was trained on",
            "allowed" if config.allow_overlap else "none",
            "no record of its training data" if count is None else f"{count} images",
            config.allow_overlap or count == 0,
        )


_Check = Callable[[Evidence, PromoteConfig], Iterator[Gate]]

_COMPARISON_CHECKS: tuple[_Check, ...] = (_check_difference, _check_num_images, _check_mcnemar)

# In the order in which the gates are reported. A check yields nothing if its setting is not set.
_CHECKS: tuple[_Check, ...] = (
    *_COMPARISON_CHECKS,
    _check_minimums,
    _check_class_drops,
    _check_latency,
    _check_size,
    _check_classes,
    _check_overlaps,
)
