"""How often the bound of `evaluate --abstain` breaks, and how many images it answers.

    python -m benchmarks.abstention

A logistic regression of noisy digits is fitted to 200 of scikit-learn's images; its predictions
for the other 1,597 are the population. Each of 200 resamples of a size gives a threshold. The bound
is broken if more than the allowed share of the answers is wrong, of all answered images of the
population. Nothing here depends on the machine.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trialrun.report.abstention import find_answer_rule

_NUM_RESAMPLES, _NUM_FITTED = 200, 200
_SIZES, _MAX_ERRORS = (200, 500, 1000, 5000), (0.02, 0.05, 0.1)


def predict() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidence and the correctness of the predictions of the population."""
    images, labels = load_digits(return_X_y=True)
    images = images + np.random.default_rng(0).normal(0, 4, images.shape)
    model = LogisticRegression(max_iter=2000, C=1e-3).fit(
        images[:_NUM_FITTED], labels[:_NUM_FITTED]
    )
    probabilities = model.predict_proba(images[_NUM_FITTED:])
    right = model.classes_[probabilities.argmax(axis=1)] == labels[_NUM_FITTED:]
    return probabilities.max(axis=1), right


def find_largest_coverage(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], max_error: float
) -> float:
    """Return the coverage of the best threshold, which knows the population."""
    wrong = np.cumsum(~right[np.argsort(-confidence)])
    numbers = np.arange(1, len(right) + 1)
    kept = np.flatnonzero(wrong <= max_error * numbers)
    return float(numbers[kept[-1]] / len(right)) if len(kept) else 0.0


def measure(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], size: int, max_error: float
) -> tuple[float, float, float]:
    """Return the shares of resamples with a broken bound and without a threshold; mean coverage."""
    generator = np.random.default_rng(size)
    num_broken, num_refused, coverages = 0, 0, [0.0]
    for _ in range(_NUM_RESAMPLES):
        rows = generator.integers(0, len(right), size)
        rule = find_answer_rule(confidence[rows], right[rows], max_error=max_error)
        if rule is None:
            num_refused += 1
            continue
        answered = confidence >= rule.threshold
        num_broken += bool(1 - right[answered].mean() > max_error)
        coverages.append(float(answered.mean()))
    mean = float(np.mean(coverages[1:])) if len(coverages) > 1 else 0.0
    return num_broken / _NUM_RESAMPLES, num_refused / _NUM_RESAMPLES, mean


def main() -> None:
    """Print a table in Markdown."""
    confidence, right = predict()
    print(f"accuracy {right.mean():.3f} on {len(right)} images, {_NUM_RESAMPLES} resamples\n")
    print("| allowed error | images | bound broken | no threshold | coverage | best coverage |")
    print("|---|---|---|---|---|---|")
    for max_error in _MAX_ERRORS:
        best = find_largest_coverage(confidence, right, max_error)
        for size in _SIZES:
            broken, refused, coverage = measure(confidence, right, size, max_error)
            print(
                f"| {max_error:.0%} | {size} | {broken:.1%} | {refused:.0%} | {coverage:.2f} "
                f"| {best:.2f} |"
            )


if __name__ == "__main__":
    main()
