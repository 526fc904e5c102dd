"""Two metric histories of what should be the same training, epoch by epoch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

IDENTICAL, WITHIN_TOLERANCE, _DIFFERENT = "identical", "within tolerance", "different"

EpochValues = Mapping[int, float]  # epoch, from 1, to a metric's value


@dataclass(frozen=True, slots=True)
class Deviation:
    """One metric's largest relative deviation, and the epochs where it first showed.

    `first_epoch` is the first with any deviation at all, `first_beyond` the first beyond the
    tolerance; None where there is none.
    """

    metric: str
    num_epochs: int
    largest: float
    first_epoch: int | None
    first_beyond: int | None


@dataclass(frozen=True, slots=True)
class HistoryComparison:
    """All metrics' deviations; `since_epoch` is where the histories part."""

    verdict: str
    since_epoch: int | None
    deviations: tuple[Deviation, ...]


def compare_histories(
    original: Mapping[str, EpochValues], again: Mapping[str, EpochValues], *, tolerance: float
) -> HistoryComparison:
    """How far the second history is from the first; an epoch that one lacks is a difference."""
    deviations = tuple(
        _find_deviation(metric, original.get(metric, {}), again.get(metric, {}), tolerance)
        for metric in sorted({*original, *again})
    )
    beyond = [each.first_beyond for each in deviations if each.first_beyond is not None]
    first = [each.first_epoch for each in deviations if each.first_epoch is not None]
    if beyond:
        return HistoryComparison(_DIFFERENT, min(beyond), deviations)
    if first:
        return HistoryComparison(WITHIN_TOLERANCE, min(first), deviations)
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
        next((epoch for epoch, far in distances.items() if far > 0), None),
        next((epoch for epoch, far in distances.items() if far > tolerance), None),
    )


def _relative_distance(first: float | None, second: float | None) -> float:
    """Relative to the larger of the two; infinite where one is missing or no number."""
    if first is None or second is None:
        return math.inf
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    distance = abs(first - second) / max(abs(first), abs(second))
    return distance if math.isfinite(distance) else math.inf
