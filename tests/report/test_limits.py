"""Tests of confidence limits of sums and shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialrun.report.limits import (
    limit_share_above,
    limit_share_below,
    limit_sum_above,
    limit_sum_below,
)

TAIL = 0.025


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (5, 1.6235, 11.6683), (10, 4.7954, 18.3904)],
)
def test_limits_of_a_count_match_the_literature(count: int, low: float, high: float) -> None:
    """Events of weight 1 have the exact limits of a Poisson count (Garwood 1936, Biometrika 28)."""
    assert limit_sum_below(count, count, TAIL) == pytest.approx(low, abs=1e-4)
    assert limit_sum_above(count, count, 1, TAIL) == pytest.approx(high, abs=1e-4)


@pytest.mark.parametrize(
    ("count", "num_images", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684)],
)
def test_limits_of_a_share_match_the_literature(
    count: int, num_images: int, low: float, high: float
) -> None:
    """Equal images have the exact binomial limits (Newcombe 1998, Statistics in Medicine 17)."""

    def estimate(number: int, size: int) -> tuple[float, float]:
        mean = number / size
        return mean, mean * (1 - mean) / (size + 1)

    below, above = estimate(count, num_images + 1), estimate(count + 1, num_images + 1)
    assert limit_share_below(*below, TAIL) == pytest.approx(low, abs=5e-5)
    assert limit_share_above(*above, TAIL) == pytest.approx(high, abs=5e-5)


weights = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=30)


@given(weights)
def test_limits_enclose_the_sum(values: list[float]) -> None:
    """The lower limit is below the sum and the upper limit above it by the largest weight."""
    total, squares = sum(values), sum(value**2 for value in values)
    assert 0 <= limit_sum_below(total, squares, TAIL) < total
    assert limit_sum_above(total, squares, 1.0, TAIL) > total + 1.0


@given(weights, st.floats(1e-6, 1e6))
def test_limits_scale_with_the_weights(values: list[float], unit: float) -> None:
    """Weights in other units give the same limits in these units."""
    total, squares = sum(values), sum(value**2 for value in values)
    for_unit = total * unit, squares * unit**2
    below = limit_sum_below(total, squares, TAIL)
    above = limit_sum_above(total, squares, 1.0, TAIL)
    assert limit_sum_below(*for_unit, TAIL) == pytest.approx(below * unit, rel=1e-6)
    assert limit_sum_above(*for_unit, unit, TAIL) == pytest.approx(above * unit, rel=1e-6)


def test_smaller_tail_widens_the_limits() -> None:
    """Limits of a higher confidence are further apart."""
    assert limit_sum_below(3, 3, 0.001) < limit_sum_below(3, 3, TAIL)
    assert limit_sum_above(3, 3, 1, 0.001) > limit_sum_above(3, 3, 1, TAIL)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 0.01), (0.5, 0.3), (-0.1, 0.01)])
def test_share_without_evidence_has_the_lowest_limit(mean: float, variance: float) -> None:
    """A mean of 0 and a variance larger than any share can have give the limit 0."""
    assert limit_share_below(mean, variance, TAIL) == 0


def test_share_above_one_has_the_limit_one() -> None:
    """A mean that one more image lifted above 1 gives the limit 1."""
    assert limit_share_above(1.1, 0.01, TAIL) == 1
