"""Judgement of an engine: the gate of a promotion against torch in fp32, and parity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.config import build_config
from trialrun.config.engines import EXACT_ENGINES
from trialrun.config.export import ExportConfig
from trialrun.config.promote import PromoteConfig
from trialrun.registry.gates import Evidence, Gate, evaluate_gates, format_level
from trialrun.report.metrics import LOG_LOSS, compute_metrics, compute_recall
from trialrun.report.paired import PairedComparison, compare_paired
from trialrun.report.predictions import build_predictions
from trialrun.scoring.parity import MAX_PARITY_DIFFERENCE

_METRIC = "accuracy"


@dataclass(frozen=True, slots=True)
class EngineJudgement:
    """The gates of an engine, and how many test images it assigns to another class."""

    gates: tuple[Gate, ...]
    flips: int
    max_difference: float
    comparison: PairedComparison

    @property
    def passed(self) -> bool:
        """Whether all gates passed."""
        return all(gate.passed for gate in self.gates)

    def describe_refusal(self) -> str:
        """Return the gates that did not pass."""
        failed = [gate for gate in self.gates if not gate.passed]
        return "; ".join(
            f"{gate.name}: required {gate.asked}, found {gate.found}" for gate in failed
        )

    def format_interval(self) -> str:
        """Return the difference of the accuracies with its interval and confidence level."""
        comparison = self.comparison
        interval = f"{comparison.difference:+.4f} [{comparison.low:+.4f}, {comparison.high:+.4f}]"
        return f"{interval} at {format_level(comparison.confidence)}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "flips": self.flips,
            "max_difference": self.max_difference,
            "interval": [self.comparison.low, self.comparison.high],
            "confidence": self.comparison.confidence,
            "gates": [
                {"name": gate.name, "asked": gate.asked, "found": gate.found, "passed": gate.passed}
                for gate in self.gates
            ],
        }


def judge_engine(
    engine: str,
    labels: Sequence[str],
    classes: tuple[str, ...],
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    config: ExportConfig,
    num_engines: int = 1,
) -> EngineJudgement:
    """Compare (N, C) probabilities of an engine with those of torch in fp32 on N labelled images.

    The gate is that of `trialrun promote` with `not-worse`, with torch in fp32 as the champion; a
    limit for the rise of the log loss is added. `num_engines` are judged on these images: the
    interval of each has a share of the error probability, so that the probability that any of them
    passes by chance is as for one.
    """
    before = build_predictions(labels, classes, expected)
    after = build_predictions(labels, classes, found)
    confidence = 1 - (1 - config.confidence) / num_engines  # Bonferroni
    comparison = compare_paired(_METRIC, before, after, confidence=confidence)
    evidence = Evidence(
        metrics=compute_metrics(after),
        size_mb=0.0,
        comparison=comparison,
        recall=compute_recall(after),
        champion_recall=compute_recall(before),
        class_sizes={name: labels.count(name) for name in dict.fromkeys(labels)},
    )
    settings = {
        "metric": _METRIC,
        "margin": config.margin,
        "max_class_drop": config.max_class_drop,
        "confidence": config.confidence,
    }
    gates = evaluate_gates(build_config(PromoteConfig, settings), evidence).gates
    max_difference = _find_largest_difference(expected, found)
    if config.max_log_loss_rise is not None:
        rise = compute_metrics(after)[LOG_LOSS] - compute_metrics(before)[LOG_LOSS]
        gates = (*gates, _make_log_loss_gate(rise, config.max_log_loss_rise))
    if engine in EXACT_ENGINES:
        gates = (*gates, _make_parity_gate(max_difference))
    return EngineJudgement(
        gates,
        int((expected.argmax(axis=1) != found.argmax(axis=1)).sum()),
        max_difference,
        comparison,
    )


def _find_largest_difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(np.abs(expected - found).max(initial=0.0))


def _make_log_loss_gate(rise: float, limit: float) -> Gate:
    """Check the probabilities, which may be wrong where the classes are right."""
    return Gate(LOG_LOSS, f"rises by at most {limit:g}", f"{rise:+.4f}", rise <= limit)


def _make_parity_gate(difference: float) -> Gate:
    return Gate(
        "parity",
        f"probabilities within {MAX_PARITY_DIFFERENCE:g}",
        f"{difference:.3g}",
        difference <= MAX_PARITY_DIFFERENCE,
    )
