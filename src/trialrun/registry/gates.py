"""What must hold before a version takes an alias; every gate is told, not the first that fails."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trialrun.config.promote import BETTER, PromoteConfig
from trialrun.report.metrics import LOG_LOSS, lower_is_better
from trialrun.report.paired import PairedComparison

_SHOWN_CLASSES = 5


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: what was asked, what was found, whether that will do."""

    name: str
    asked: str
    found: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """Test images that a version has seen before; None where no record says what it has seen."""

    version: str
    num_trained_on: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found out about a challenger, and about the champion where there is one."""

    metrics: Mapping[str, float]
    size_mb: float
    latency_ms: float | None = None
    overlaps: tuple[Overlap, ...] = ()
    class_differences: tuple[str, ...] = ()
    comparison: PairedComparison | None = None  # None: there is no champion yet
    recall: Mapping[str, float] = field(default_factory=dict)
    champion_recall: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gates of a promotion.

    `images_needed` is about how many images would tell, where these were too few.
    """

    gates: tuple[Gate, ...]
    images_needed: int | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate let the version through."""
        return all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> tuple[Gate, ...]:
        """The gates that did not."""
        return tuple(gate for gate in self.gates if not gate.passed)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain rows."""
        return [asdict(gate) for gate in self.gates]


def evaluate_gates(config: PromoteConfig, evidence: Evidence) -> Verdict:
    """Hold the evidence to what `config` asks."""
    gates = tuple(_check_gates(config, evidence))
    found = evidence.comparison
    if found is None or all(gate.passed for gate in _check_comparison(config, found)):
        return Verdict(gates)
    return Verdict(gates, found.images_to_show(_required_difference(config), config.confidence))


def _required_difference(config: PromoteConfig) -> float:
    """What the difference must be shown to lie above."""
    return 0.0 if config.require == BETTER else -config.margin


def _check_gates(config: PromoteConfig, evidence: Evidence) -> Iterator[Gate]:
    if evidence.comparison is not None:
        yield from _check_comparison(config, evidence.comparison)
    yield from _check_minimums(config, evidence)
    yield from _check_class_drops(config, evidence)
    yield from _check_limit("latency", evidence.latency_ms, config.max_latency_ms, "ms an image")
    yield from _check_limit("size", evidence.size_mb, config.max_size_mb, "MB")
    yield _check_classes(config, evidence.class_differences)
    yield from (_check_overlap(config, overlap) for overlap in evidence.overlaps)


def _check_comparison(config: PromoteConfig, found: PairedComparison) -> Iterator[Gate]:
    """The interval, and beside it a test that does not trust a handful of images.

    Where the models disagree on few, draws of the images scatter too little: four against none
    make an interval above 0 with a p of 0.125, no disagreement at all one without width.
    """
    bound = _required_difference(config)
    yield Gate(
        f"{config.metric} {config.require}",
        f"{config.confidence:.0%} interval above {bound:g}",
        f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
        found.low > bound,
    )
    if config.require != BETTER:
        yield _check_num_images(config, found)
    elif config.metric != LOG_LOSS:
        yield _check_mcnemar(config, found)


def _check_num_images(config: PromoteConfig, found: PairedComparison) -> Gate:
    low, bound = found.score_low(config.confidence), _required_difference(config)
    return Gate(
        "enough images",
        f"score interval above {bound:g}",
        f"{low:+.4f} ({_count_disagreements(found)} of {found.num_images} images)",
        low > bound,
    )


def _check_mcnemar(config: PromoteConfig, found: PairedComparison) -> Gate:
    level = 1 - config.confidence
    return Gate(
        "McNemar's exact test",
        f"p at most {level:.3g}",
        f"p = {found.mcnemar_p:.3g} ({_count_disagreements(found)} images)",
        found.mcnemar_p <= level + 1e-12
        and found.only_challenger_right > found.only_baseline_right,
    )


def _count_disagreements(found: PairedComparison) -> str:
    return f"{found.only_challenger_right} against {found.only_baseline_right}"


def _check_minimums(config: PromoteConfig, evidence: Evidence) -> Iterator[Gate]:
    asked = config.minimums()
    if not asked and evidence.comparison is None:
        yield Gate("minimum", "--min METRIC=VALUE for the first champion", "none given", False)
    for metric, bound in asked.items():
        value = evidence.metrics[metric]
        loss = lower_is_better(metric)
        yield Gate(
            metric,
            f"at {'most' if loss else 'least'} {bound:g}",
            f"{value:.4f}",
            value <= bound if loss else value >= bound,
        )


def _check_class_drops(config: PromoteConfig, evidence: Evidence) -> Iterator[Gate]:
    limit = config.max_class_drop
    if limit is None or evidence.comparison is None:
        return
    drops = {
        name: before - evidence.recall.get(name, 0.0)
        for name, before in evidence.champion_recall.items()
    }
    worst = sorted(drops, key=lambda name: -drops[name])
    too_far = [name for name in worst if drops[name] > limit + 1e-12]
    shown = too_far or worst[:1]
    yield Gate(
        "recall of each class",
        f"falls by at most {limit:g}",
        "; ".join(f"{name} {-drops[name]:+.4f}" for name in shown[:_SHOWN_CLASSES])
        + (f"; {len(shown) - _SHOWN_CLASSES} more" if len(shown) > _SHOWN_CLASSES else ""),
        not too_far,
    )


def _check_limit(name: str, value: float | None, limit: float | None, unit: str) -> Iterator[Gate]:
    if limit is not None and value is not None:
        yield Gate(name, f"at most {limit:g} {unit}", f"{value:.3g}", value <= limit)


def _check_classes(config: PromoteConfig, differences: Iterable[str]) -> Gate:
    found = "; ".join(differences)
    allowed = config.allow_class_change
    return Gate(
        "classes",
        "may differ" if allowed else "the same throughout",
        found or "the same",
        allowed or not found,
    )


def _check_overlap(config: PromoteConfig, overlap: Overlap) -> Gate:
    seen = overlap.num_trained_on
    found = "no record of its training data" if seen is None else f"{seen} images"
    return Gate(
        f"test images that {overlap.version} was trained on",
        "allowed" if config.allow_overlap else "none",
        found,
        config.allow_overlap or seen == 0,
    )
