"""Seconds to an accuracy compared by seed: ratio of trialrun to another trainer, with interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from benchmarks.accuracy.results import Result

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """A geometric mean of ratios over seeds, and its 95 % interval."""

    mean: float
    low: float
    high: float
    is_upper_limit: bool  # the other trainer did not always reach the accuracy


def compare(ours: Sequence[Result], others: Sequence[Result], accuracy: float) -> Ratio | None:
    """Return the ratio over the seeds that both have; None without one.

    A process of the other trainer that ended below the accuracy counts with all its seconds, which
    are fewer than it would have needed: the ratio is then an upper limit. One of trialrun makes
    the ratio infinite.
    """
    by_seed = {result.seed: result for result in others}
    pairs = [(result, by_seed[result.seed]) for result in ours if result.seed in by_seed]
    if not pairs:
        return None
    if any(result.find_seconds(accuracy) is None for result, _ in pairs):
        return Ratio(math.inf, math.inf, math.inf, is_upper_limit=False)
    reached = [(ours.find_seconds(accuracy), other.find_seconds(accuracy)) for ours, other in pairs]
    logs = [
        math.log(seconds / (other_seconds or pair[1].seconds))
        for (seconds, other_seconds), pair in zip(reached, pairs, strict=True)
        if seconds is not None
    ]
    low, high = _limit_mean(logs)
    is_limit = any(other_seconds is None for _, other_seconds in reached)
    return Ratio(math.exp(fmean(logs)), math.exp(low), math.exp(high), is_limit)


def _limit_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of Student's t interval; infinite ones for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    from scipy.stats import t

    width = float(t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1))
    half = width * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def summarize(results: Sequence[Result], accuracy: float) -> tuple[str, str, str]:
    """Return how many processes reached the accuracy, their median seconds, and the range."""
    reached = [at for result in results if (at := result.find_seconds(accuracy)) is not None]
    share = f"{len(reached)} of {len(results)}"
    if not reached:
        longest = max(result.seconds for result in results)
        return share, f"> {longest:.1f}", "-"
    return share, f"{median(reached):.1f}", f"{min(reached):.1f} to {max(reached):.1f}"


def format_ratio(ratio: Ratio | None) -> tuple[str, str]:
    """Return the ratio and its interval for a table."""
    if ratio is None:
        return "-", "-"
    sign = "< " if ratio.is_upper_limit else ""
    interval = f"{ratio.low:.2f} to {ratio.high:.2f}" if math.isfinite(ratio.high) else "-"
    return f"{sign}{ratio.mean:.2f}", interval


def find_fastest(by_trainer: dict[str, Sequence[Result]], accuracy: float) -> str | None:
    """Return the trainer with the lowest mean of log seconds among those that always reached it."""
    means = {}
    for name, results in by_trainer.items():
        reached = [result.find_seconds(accuracy) for result in results]
        if results and all(at is not None for at in reached):
            means[name] = fmean(math.log(at) for at in reached if at is not None)
    return min(means, key=lambda name: means[name]) if means else None
