"""A confidence threshold below which a model abstains, so that its answers are seldom wrong.

Array letters: N images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trialrun.report.intervals import Interval, limit_binomial

COVERAGE, ANSWERED_ERROR = "coverage", "answered_error"

# Shares of the images, the most confident first, at which sequences of tests begin, and how many
# errors the bound must allow among them: fewer can hardly be told from too many. Each sequence has
# an equal part of the error probability. Of the choices tried on real and simulated predictions of
# 200 to 5,000 images, these answered most.
_STARTS = (1.0, 0.6, 0.3, 0.15, 0.07, 0.03)
_MIN_ERRORS = 5


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
    answered = np.append(np.flatnonzero(ranked[:-1] > ranked[1:]) + 1, len(ranked))
    wrong = np.cumsum(~right[order], dtype=np.int64)[answered - 1]
    best = _find_last_rejected(answered, wrong, max_error, 1 - level)
    if best is None:
        return None
    num_answered, is_partial = int(answered[best]), answered[best] < len(ranked)
    threshold = np.nextafter(ranked[num_answered], np.float32(2)) if is_partial else 0.0
    return AnswerRule(
        float(threshold), max_error, level, len(ranked), num_answered, int(wrong[best])
    )


def _find_last_rejected(
    answered: NDArray[np.int64], wrong: NDArray[np.int64], max_error: float, error: float
) -> int | None:
    """Return the last threshold that a sequence of rejections reaches; None if none does.

    `answered` and `wrong` are the numbers of answers and of wrong answers of each threshold, which
    fall. Rejected is that the share `max_error` of all answers is wrong, or more; `error` is the
    probability of one false rejection.
    """
    from scipy.special import bdtr

    starts = _list_starts(int(answered[-1]), max_error)
    is_kept = bdtr(wrong, answered, max_error) > error / len(starts)
    best = -1
    for start in np.searchsorted(answered, starts).tolist():
        num_rejected = int(np.argmax(np.append(is_kept[start:], True)))
        best = max(best, start + num_rejected - 1 if num_rejected else -1)
    return None if best < 0 else best


def _list_starts(num_images: int, max_error: float) -> list[float]:
    """Return the numbers of answers at which sequences begin; all images are always one."""
    numbers = [share * num_images for share in _STARTS]
    return numbers[:1] + [number for number in numbers[1:] if number * max_error >= _MIN_ERRORS]


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
        f"at most {100 * rule.max_error:g}% of the answers are wrong ({rule.level:.0%} confidence)"
    )
