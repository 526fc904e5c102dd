"""A confidence threshold below which a model abstains, so that its answers are seldom wrong.

Array letters: N images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.report.intervals import Interval, limit_binomial

COVERAGE, ANSWERED_ERROR = "coverage", "answered_error"

# Shares of the images, the most confident first, at which sequences of tests begin. Each sequence
# has an equal part of the error probability. Of the choices tried on simulated sets of 300 to 5,000
# images, this one answered most without breaking the bound more often than it may.
_STARTS = (1.0, 0.6, 0.3)


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """A threshold, and what answering from it on means for the images that it is derived from.

    With a probability of `level`, at most the share `max_error` of all answers is wrong.
    """

    threshold: float
    max_error: float
    level: float
    num_images: int
    num_answered: int
    num_wrong: int

    @property
    def coverage(self) -> float:
        """The share of the images that are answered."""
        return self.num_answered / self.num_images


def find_answer_rule(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    *,
    max_error: float,
    level: float = 0.95,
) -> AnswerRule | None:
    """Return the threshold with the most answers that bounds their error; None if there is none.

    Args:
        confidence: (N,) probability of the predicted class of images that the model has not seen,
            drawn independently from what it will see. N is 1 or more.
        right: (N,) whether each prediction is right.
        max_error: The largest share of wrong answers, between 0 and 1.
        level: Probability, over the images, that the bound holds.

    Source:
        Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052):
        fixed-sequence testing from several starts. The hypothesis of a threshold is that more than
        `max_error` of its answers are wrong; given the next lower confidence, the answers above it
        are independent, so that the p-value is an exact binomial one. The bound assumes that the
        error crosses `max_error` once as the threshold falls. Conformal risk control (Angelopoulos
        et al. 2022, arXiv:2208.02814) is not used: it bounds the expectation of a loss that falls
        as the threshold rises, which the error among answers need not do.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order].astype(np.float32)  # as networks compute them
    wrong = np.cumsum(~right[order], dtype=np.int64)
    p_values = _compute_p_values(wrong, max_error)
    num_answered = _count_rejected(p_values, (1 - level) / len(_STARTS))
    while 0 < num_answered < len(ranked) and ranked[num_answered - 1] == ranked[num_answered]:
        num_answered -= 1  # no threshold separates equal confidences
    if not num_answered:
        return None
    is_partial = num_answered < len(ranked)
    threshold = np.nextafter(ranked[num_answered], np.float32(2)) if is_partial else 0.0
    return AnswerRule(
        float(threshold), max_error, level, len(ranked), num_answered, int(wrong[num_answered - 1])
    )


def _compute_p_values(wrong: NDArray[np.int64], max_error: float) -> NDArray[Any]:
    """Return the probability of so few wrong answers if the share `max_error` of all is wrong."""
    from scipy.special import bdtr

    values: NDArray[Any] = bdtr(wrong, np.arange(1, len(wrong) + 1), max_error)
    return values


def _count_rejected(p_values: NDArray[Any], limit: float) -> int:
    """Return the largest number of answers that a sequence of rejections reaches, or 0."""
    best = 0
    for share in _STARTS:
        start = int(np.ceil(share * len(p_values))) - 1
        kept = np.flatnonzero(p_values[start:] > limit)
        reached = start + (int(kept[0]) if len(kept) else len(p_values) - start)
        best = max(best, reached if reached > start else 0)
    return best


def measure_answers(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], threshold: float, level: float
) -> dict[str, tuple[float, Interval]]:
    """Return the coverage and, if there is any answer, the error of the answers, with intervals."""
    is_answered = confidence >= threshold
    num_answered, tail = int(is_answered.sum()), (1 - level) / 2
    coverage = num_answered / len(confidence)
    figures = {COVERAGE: (coverage, limit_binomial(num_answered, len(confidence), tail))}
    if num_answered:
        num_wrong = int((~right[is_answered]).sum())
        interval = limit_binomial(num_wrong, num_answered, tail)
        figures[ANSWERED_ERROR] = (num_wrong / num_answered, interval)
    return figures


def describe_rule(rule: AnswerRule) -> str:
    """Return the threshold, the coverage and the promise as text."""
    return (
        f"answers {rule.coverage:.1%} of the images, from a confidence of {rule.threshold:.4g} on; "
        f"at most {rule.max_error:g} of the answers are wrong ({rule.level:.0%} confidence)"
    )
