"""Picture of a calibration."""

import numpy as np

from trialrun.report.calibration import Calibration
from trialrun.report.figures.canvas import create_figure, save_png


def draw_calibration(calibration: Calibration) -> bytes:
    """Return a PNG of the accuracy by confidence, above the number of images by confidence."""
    num_bins = len(calibration.counts)
    centers = (np.arange(num_bins) + 0.5) / num_bins
    has_images = calibration.counts > 0
    figure = create_figure(4.6, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfect calibration")
    upper.bar(
        centers[has_images],
        calibration.accuracy[has_images],
        width=0.9 / num_bins,
        alpha=0.7,
        label="accuracy",
    )
    upper.plot(
        calibration.confidence[has_images],
        calibration.accuracy[has_images],
        color="C1",
        marker="o",
        label="mean confidence and accuracy",
    )
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    upper.set_title(f"expected calibration error {calibration.error:.3f}", fontsize="medium")
    figure.legend(fontsize="small", loc="outside lower center")
    lower.bar(centers, calibration.counts, width=0.9 / num_bins, color="gray")
    lower.set(xlabel="confidence of the predicted class", ylabel="images")
    return save_png(figure)
