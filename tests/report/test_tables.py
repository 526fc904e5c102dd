"""The confusion matrix and the per-class table."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as reference_matrix
from sklearn.metrics import precision_recall_fscore_support

from trialrun.report.tables import compute_class_reports, confusion_matrix

NUM_CLASSES = 4
CLASSES = ("ant", "bee", "cat", "dog")
PAIRS = st.lists(
    st.tuples(st.integers(0, NUM_CLASSES - 1), st.integers(0, NUM_CLASSES - 1)), min_size=1
)


@given(PAIRS)
def test_tables_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Rows are true classes; classes without images or without predictions have zeros."""
    labels, predicted = np.array(pairs, dtype=np.int64).T
    matrix = confusion_matrix(labels, predicted, NUM_CLASSES)
    indices = list(range(NUM_CLASSES))
    assert (matrix == reference_matrix(labels, predicted, labels=indices)).all()
    expected = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    reports = compute_class_reports(matrix, CLASSES)
    assert [report.name for report in reports] == list(CLASSES)
    for field, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        np.testing.assert_allclose([getattr(report, field) for report in reports], values)
