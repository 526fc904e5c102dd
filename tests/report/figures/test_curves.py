"""Tests of the plots of several runs."""

import io

import numpy as np
from PIL import Image

from trialrun.report.figures.curves import draw_curves

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # the first two of matplotlib's cycle


def num_pixels(panel: Image.Image, color: tuple[int, int, int]) -> int:
    """Return the number of pixels with exactly this color."""
    return int((np.asarray(panel) == color).all(axis=2).sum())


def test_run_keeps_its_color_in_every_panel() -> None:
    """A panel with only the second run does not use the color of the first."""
    both = {"A": {1: 0.5, 2: 0.4}, "B": {1: 0.6, 2: 0.5}}
    alone = {"B": {1: 0.9, 2: 0.95}}
    png = draw_curves({"valid_loss": both, "valid_top5_accuracy": alone}, order=["A", "B"])
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    width, height = picture.width, round(0.8 * picture.height)  # the legend is below
    left = picture.crop((0, 0, width // 2, height))
    right = picture.crop((width // 2, 0, width, height))
    assert num_pixels(left, BLUE) > 0
    assert num_pixels(left, ORANGE) > 0
    assert num_pixels(right, BLUE) == 0
    assert num_pixels(right, ORANGE) > 0
