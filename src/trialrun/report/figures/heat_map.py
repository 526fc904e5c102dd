"""Small picture of a confusion matrix, drawn in milliseconds, such as one per epoch.

Letters: N images, C classes, K cells per side.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trialrun.report.figures.tiles import TEXT_COLOR, load_font, shorten_to_width
from trialrun.report.predictions import Predictions
from trialrun.report.tables import confusion_matrix

MAX_CELLS = 1024  # per side; of more classes, neighbours share a cell
_SIDE, _LARGEST_CELL = 480, 64  # pixels
_SMALLEST_NAMED, _SMALLEST_COUNTED = 14, 24  # pixels of a cell with names, and with its count
_NAME_WIDTH, _FONT_SIZE, _LINE = 110, 11, 15  # pixels
# Shares 0, 1/2 and 1 of the scale: white to dark blue.
_SCALE = ((255, 255, 255), (107, 174, 214), (8, 48, 107))


def draw_heat_map(predictions: Predictions) -> Image.Image:
    """Return a picture with one row per true class and one column per predicted class.

    The colour is the square root of the share of the true class's images, so that small shares can
    be seen.
    """
    counts = count_cells(predictions)
    cell = max(1, min(_SIDE // len(counts), _LARGEST_CELL))
    names = predictions.classes if cell >= _SMALLEST_NAMED else ()
    grid = Image.fromarray(_color_shares(counts)).resize(
        (cell * len(counts), cell * len(counts)), Image.Resampling.NEAREST
    )
    if cell >= _SMALLEST_COUNTED:
        _write_counts(grid, counts, cell)
    return _add_names(grid, names, cell, _describe(predictions, len(counts)))


def count_cells(predictions: Predictions) -> NDArray[np.int64]:
    """Return the (K, K) counts; K is C, or less if neighbouring classes share a cell."""
    num_classes = len(predictions.classes)
    size = -(-num_classes // MAX_CELLS)  # classes per cell
    num_cells = -(-num_classes // size)
    return confusion_matrix(predictions.labels // size, predictions.predicted // size, num_cells)


def _describe(predictions: Predictions, num_cells: int) -> str:
    size = -(-len(predictions.classes) // num_cells)
    shared = f", {size} classes per cell" if size > 1 else ""
    return f"{predictions.right.mean():.1%} right; true \u2193, predicted \u2192{shared}"


def _color_shares(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(K, K) counts to (K, K, 3) colours."""
    shares = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    levels = np.rint(shares * 255).astype(np.uint8)
    places, stops = np.linspace(0, 1, 256), np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(places, stops, channel) for channel in zip(*_SCALE, strict=True)]
    colors: NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)[levels]
    return colors


def _write_counts(grid: Image.Image, counts: NDArray[np.int64], cell: int) -> None:
    pen, font = ImageDraw.Draw(grid), load_font(_FONT_SIZE)
    totals = counts.sum(axis=1)
    for row, column in np.argwhere(counts).tolist():
        count = int(counts[row, column])
        color = "white" if count > totals[row] / 4 else "black"
        center = ((column + 0.5) * cell, (row + 0.5) * cell)
        pen.text(center, str(count), fill=color, font=font, anchor="mm")


def _add_names(grid: Image.Image, names: Sequence[str], cell: int, title: str) -> Image.Image:
    """Return the grid below a title, with the names of its rows and columns."""
    font = load_font(_FONT_SIZE)
    shown = [shorten_to_width(name, _NAME_WIDTH, font) for name in names]
    margin = max((round(font.getlength(name)) + 8 for name in shown), default=4)
    width = max(grid.width + margin + 4, round(font.getlength(title)) + 8)
    canvas = Image.new("RGB", (width, grid.height + margin + _LINE + 4), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((4, 1), title, fill=TEXT_COLOR, font=font)
    canvas.paste(grid, (margin, _LINE + 4))
    frame = (margin - 1, _LINE + 3, margin + grid.width, _LINE + 4 + grid.height)
    pen.rectangle(frame, outline="#bbbbbb")
    for number, name in enumerate(shown):
        center = (number + 0.5) * cell
        pen.text((margin - 4, _LINE + 4 + center), name, TEXT_COLOR, font, anchor="rm")
        label = _turn_text(name, font.getlength(name))
        left = round(margin + center - label.width / 2)
        canvas.paste(label, (left, _LINE + 4 + grid.height + 4))
    return canvas


def _turn_text(text: str, length: float) -> Image.Image:
    """Return the text, read from bottom to top."""
    label = Image.new("RGB", (max(1, round(length)), _LINE), "white")
    ImageDraw.Draw(label).text((0, 1), text, TEXT_COLOR, load_font(_FONT_SIZE))
    return label.transpose(Image.Transpose.ROTATE_90)
