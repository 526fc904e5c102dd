"""Confidence limits of sums of rare events, and of shares, from a mean and a variance.

A confidence limit must allow for an event that the test set happens not to contain: without any
observed error, the error rate is not zero. Each limit therefore takes the effect of one more image,
the largest that any image can have.
"""


def limit_sum_below(total: float, squares: float, tail: float) -> float:
    """Return the lower limit of the expected sum of weighted events.

    Args:
        total: The sum of the weights of the observed events, 0 or more.
        squares: The sum of their squares, which estimates the variance of `total`.
        tail: The probability of an expected sum below the limit, from 0 to 0.5.

    Source:
        Fay and Feuer 1997, Statistics in Medicine 16, 791-801: gamma limits of a weighted sum of
        Poisson counts. With equal weights they are the exact limits of a count.
    """
    from scipy.special import gammaincinv

    if total <= 0:
        return 0.0
    return float(gammaincinv(total**2 / squares, tail) * squares / total)


def limit_sum_above(total: float, squares: float, largest: float, tail: float) -> float:
    """Return the upper limit of the expected sum of weighted events.

    Args:
        total: As in `limit_sum_below`.
        squares: As in `limit_sum_below`.
        largest: The largest weight that an event can have, above 0.
        tail: The probability of an expected sum above the limit, from 0 to 0.5.

    Source:
        See `limit_sum_below`.
    """
    from scipy.special import gammainccinv

    total, squares = total + largest, squares + largest**2
    return float(gammainccinv(total**2 / squares, tail) * squares / total)


def limit_share_above(mean: float, variance: float, tail: float) -> float:
    """Return the upper limit of a share from 0 to 1: a quantile of the beta distribution.

    Source:
        Korn and Graubard 1998, Survey Methodology 24, 193-201: the exact binomial limits
        (Clopper and Pearson 1934) for the number of images that gives the estimated variance.
    """
    return 1 - limit_share_below(1 - mean, variance, tail)


def limit_share_below(mean: float, variance: float, tail: float) -> float:
    """Return the lower limit of a share from 0 to 1; see `limit_share_above`."""
    from scipy.special import betaincinv

    if mean >= 1:
        return 1.0
    if mean <= 0 or variance >= mean * (1 - mean):
        return 0.0
    size = mean * (1 - mean) / variance - 1
    return float(betaincinv(mean * size, (1 - mean) * size, tail))
