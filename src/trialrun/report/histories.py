"""Comparison of the metric histories of two runs of the same training, epoch by epoch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

IDENTICAL, WITHIN_TOLERANCE, DIFFERENT = "identical", "within tolerance", "different"

EpochValues = Mapping[int, float]  # epoch, starting at 1, to the value of a metric


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest relative deviation of one metric and the epochs in which it starts.

    `first_epoch` is the first epoch with any deviation, `first_beyond` the first with one beyond
    the tolerance; None if no epoch has one.
    """

    metric: str
    num_epochs: int
    largest: float
    first_epoch: int | None
    first_beyond: int | None


@dataclass(frozen=True, slots=True)
class HistoryComparison:
    """The deviations of all metrics; the histories differ from `since_epoch` on."""

    verdict: str
    since_epoch: int | None
    deviations: tuple[Deviation, ...]


def compare_histories(
    original: Mapping[str, EpochValues], again: Mapping[str, EpochValues], *, tolerance: float
) -> HistoryComparison:
    """Compare two histories; an epoch that one of them lacks is a difference.

    Raises:
        ValueError: Neither has an epoch.
    """
    deviations = tuple(
        _find_deviation(metric, original.get(metric, {}), again.get(metric, {}), tolerance)
        for metric in sorted({*original, *again})
        if original.get(metric) or again.get(metric)
    )
    if not deviations:
        raise ValueError("the histories have no epochs")
    beyond_tolerance = [item.first_beyond for item in deviations if item.first_beyond is not None]
    deviating = [item.first_epoch for item in deviations if item.first_epoch is not None]
    if beyond_tolerance:
        return HistoryComparison(DIFFERENT, min(beyond_tolerance), deviations)
    if deviating:
        return HistoryComparison(WITHIN_TOLERANCE, min(deviating), deviations)
    return HistoryComparison(IDENTICAL, None, deviations)


def _find_deviation(
    metric: str, original: EpochValues, again: EpochValues, tolerance: float
) -> Deviation:
    distances = {
        epoch: _relative_distance(original.get(epoch), again.get(epoch))
        for epoch in sorted({*original, *again})
    }
    return Deviation(
        metric,
        len(distances),
        max(distances.values(), default=0.0),
        next((epoch for epoch, distance in distances.items() if distance > 0), None),
        next((epoch for epoch, distance in distances.items() if distance > tolerance), None),
    )


def _relative_distance(first: float | None, second: float | None) -> float:
    """Return the distance relative to the larger value; infinite if a value is missing or NaN."""
    if first is None or second is None:
        return math.inf
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    distance = abs(first - second) / max(abs(first), abs(second))
    return distance if math.isfinite(distance) else math.inf
