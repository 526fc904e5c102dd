"""Picture of a confusion matrix."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trialrun.report.figures.canvas import create_figure, save_png, shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 100  # of a picture; with more, those with the most errors are drawn
_MAX_COUNTS = 30  # classes up to which the cells have their counts
_NAME_LENGTH = 24
_SMALLEST_SIDE, _CELL, _MARGIN = 4.0, 0.17, 2.2  # inches
_LARGE_CELL = 0.36
_FONT_SIZES = ((12, 9.0), (30, 7.0), (MAX_CLASSES, 5.5))  # points, up to a number of classes


def draw_confusion_matrix(confusion: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Return a PNG of (C, C) counts, with one row per true class.

    The colour is the share of the true class's images, so that small shares can be seen.
    """
    from matplotlib.colors import PowerNorm

    chosen = choose_classes(confusion)
    cells = confusion[np.ix_(chosen, chosen)]
    totals = np.maximum(confusion[chosen].sum(axis=1, keepdims=True), 1)
    names = [shorten_name(classes[index], _NAME_LENGTH) for index in chosen]
    font = next(size for limit, size in _FONT_SIZES if len(names) <= limit)
    cell = _LARGE_CELL if len(names) <= _MAX_COUNTS else _CELL
    side = max(_SMALLEST_SIDE, cell * len(names) + _MARGIN)
    figure = create_figure(side + 0.6, side)
    axes = figure.subplots()
    image = axes.imshow(cells / totals, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=font)
    axes.set_yticks(range(len(names)), names, fontsize=font)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(chosen) < len(classes):
        axes.set_title(f"the {len(chosen)} of {len(classes)} classes with the most errors")
    if len(names) <= _MAX_COUNTS:
        _write_counts(axes, cells, totals, font)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    return save_png(figure)


def choose_classes(confusion: NDArray[np.int64]) -> list[int]:
    """Return the classes to draw, in their order: all, or those with the most errors."""
    num_classes = len(confusion)
    if num_classes <= MAX_CLASSES:
        return list(range(num_classes))
    hits = np.diag(confusion)
    errors = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * hits
    largest: list[int] = np.argsort(-errors, kind="stable")[:MAX_CLASSES].tolist()
    return sorted(largest)


def _write_counts(
    axes: "Axes", cells: NDArray[np.int64], totals: NDArray[np.int64], font: float
) -> None:
    for row, column in np.argwhere(cells):
        count = int(cells[row, column])
        color = "white" if count > totals[row, 0] / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=font, color=color)
