"""Heat maps of confusion matrices: colours, names and large numbers of classes."""

import numpy as np
import pytest

from trialrun.report.figures.heat_map import MAX_CELLS, count_cells, draw_heat_map
from trialrun.report.predictions import Predictions


def make_predictions(
    classes: tuple[str, ...], labels: list[int], predicted: list[int]
) -> Predictions:
    """Return predictions without probabilities."""
    return Predictions(classes, np.array(labels), np.array(predicted), np.ones(len(labels)))


def test_shares_of_the_true_class_are_colours() -> None:
    """A class that is always right is dark on the diagonal; pairs without images are white."""
    picture = draw_heat_map(make_predictions(("a", "b"), [0, 0, 1, 1], [0, 0, 1, 0]))
    pixels = np.asarray(picture.convert("L"))
    cell = 64
    left, top = picture.width - 2 * cell - 4, 19
    if picture.width > 2 * cell + 40:  # the title is wider than the grid
        left = int(np.flatnonzero(pixels[top + 5] < 100)[0]) - 1
    right = pixels[top + 5, left + 5], pixels[top + 5, left + cell + 5]
    assert right[0] < 60
    assert right[1] > 250


@pytest.mark.parametrize(
    "classes",
    [
        ("only",),
        ("$x$", "red/\U0001f534", "y" * 300),
        ("line\nbreak", "", " "),
        tuple(f"class {number}" for number in range(40)),
    ],
)
def test_names_may_be_strange(classes: tuple[str, ...]) -> None:
    """Names of any length and with any characters are drawn, in a picture of a moderate size."""
    labels = list(range(len(classes)))
    picture = draw_heat_map(make_predictions(classes, labels, labels))
    assert max(picture.size) < 800


def test_thousand_classes_have_a_pixel_each() -> None:
    """The picture is no larger than a screen."""
    classes = tuple(f"n{number:08}" for number in range(1000))
    picture = draw_heat_map(make_predictions(classes, [3, 999], [3, 0]))
    assert max(picture.size) < 1100


def test_neighbours_share_a_cell_if_there_are_too_many_classes() -> None:
    """No image is lost, and there are at most as many cells as pixels."""
    classes = tuple(map(str, range(5000)))
    counts = count_cells(make_predictions(classes, [0, 4, 4999], [4, 0, 4998]))
    assert len(counts) <= MAX_CELLS
    assert counts[0, 0] == 2
    assert counts[-1, -1] == 1
    assert counts.sum() == 3
