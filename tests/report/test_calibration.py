"""Calibration of confidences."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from trialrun.report.calibration import measure_calibration


def test_error_is_that_of_torchmetrics() -> None:
    """Both weigh the distance of confidence and accuracy in 15 bins."""
    generator = np.random.default_rng(0)
    confidence = np.append(generator.random(500), [0.0, 1.0])
    right = generator.random(502) < confidence**2
    found = measure_calibration(confidence, right)
    expected = binary_calibration_error(
        torch.from_numpy(confidence), torch.from_numpy(right.astype(np.int64)), n_bins=15
    )
    assert found.error == pytest.approx(float(expected), abs=1e-6)
    assert found.interval.low < found.error < found.interval.high
    assert found.counts.sum() == 502


def test_calibrated_confidences_have_a_small_error() -> None:
    """Bins without images do not count."""
    confidence = np.repeat([0.25, 0.75], 400)
    right = np.append(
        np.tile([True, False, False, False], 100), np.tile([True, True, True, False], 100)
    )
    found = measure_calibration(confidence, right)
    assert found.error == pytest.approx(0, abs=1e-9)
    assert np.count_nonzero(found.counts) == 2
