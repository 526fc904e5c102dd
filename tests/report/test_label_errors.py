"""Images whose label is probably wrong."""

import sys

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from trialrun.errors import InvalidParameterError
from trialrun.report import label_errors
from trialrun.report.label_errors import check_audit, find_label_errors
from trialrun.report.predictions import Predictions, build_predictions

NAMES = tuple(map(str, range(10)))


def predict_digits(num_wrong: int) -> tuple[Predictions, set[int], list[int]]:
    """Return predictions, the images with a changed label, and what cleanlab finds by itself."""
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=1000, C=1e-3).fit(images[:900], labels[:900])
    probabilities, given = model.predict_proba(images[900:]), labels[900:].copy()
    changed = np.random.default_rng(0).choice(len(given), num_wrong, replace=False)
    given[changed] = (given[changed] + 1) % 10
    found = find_label_issues(
        given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    predictions = build_predictions([NAMES[label] for label in given], NAMES, probabilities)
    return predictions, set(changed.tolist()), found.tolist()


def test_changed_labels_are_found_as_cleanlab_finds_them() -> None:
    """Two probabilities per image find what all of them find."""
    predictions, changed, expected = predict_digits(num_wrong=30)
    found = find_label_errors(predictions)
    assert len(changed & set(found)) >= 24
    assert len(set(found) ^ set(expected)) <= 4
    assert len(changed & set(found[:20])) >= 18


def test_right_predictions_suspect_no_label() -> None:
    """Nothing is computed if the model agrees with all labels."""
    labels = np.arange(10)
    predictions = Predictions(NAMES, labels, labels, np.full(10, 0.9), np.full(10, 0.9))
    assert find_label_errors(predictions) == []


def test_too_many_probabilities_are_not_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(label_errors, "MAX_CELLS", 100)
    predictions, _, _ = predict_digits(num_wrong=30)
    assert find_label_errors(predictions) == []


def test_without_cleanlab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, before anything is computed."""
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(InvalidParameterError, match="audit=true needs the package cleanlab") as e:
        check_audit()
    assert "trialrun[audit]" in e.value.hint
