"""Plots of the metric histories of several runs, one panel per metric."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialrun.report.figures.canvas import create_figure, save_png

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By panel, line, and epoch or another number.
Curves = Mapping[str, Mapping[str, Mapping[Any, float]]]
EPOCH = "epoch"

_INCHES = (4.2, 3.0)  # of one panel
_COLUMNS = 2
_MAX_LABEL = 40
_NUM_COLORS = 10  # of matplotlib's cycle
_DASHES = ("-", "--", ":")


def draw_curves(curves: Curves, *, order: Sequence[str], x_label: str = EPOCH) -> bytes:
    """Return a PNG with one panel per metric and one line per run.

    Args:
        curves: `curves[metric][run][epoch]` is a value.
        order: The runs in the order of their colors and of the legend.
        x_label: What the numbers are that replace epochs.

    Raises:
        ValueError: `curves` is empty.
    """
    if not curves:
        raise ValueError("no curves to draw")
    num_columns = min(_COLUMNS, len(curves))
    num_rows = math.ceil(len(curves) / num_columns)
    figure = create_figure(_INCHES[0] * num_columns, _INCHES[1] * num_rows)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    lines: dict[str, Artist] = {}
    for panel, (metric, runs) in zip(panels, curves.items(), strict=False):
        lines |= _draw_panel(panel, metric, runs, order)
        _label_x_axis(panel, x_label)
    for panel in panels[len(curves) :]:
        panel.axis("off")
    _add_legend(figure, {run: lines[run] for run in order if run in lines})
    return save_png(figure)


def _draw_panel(
    panel: "Axes", metric: str, runs: Mapping[str, Mapping[Any, float]], order: Sequence[str]
) -> "dict[str, Artist]":
    """Draw one line per run and return the lines."""
    lines: dict[str, Artist] = {}
    for index, run in enumerate(order):
        if points := sorted(runs.get(run, {}).items()):
            epochs, values = zip(*points, strict=True)
            [lines[run]] = panel.plot(epochs, values, marker=".", **_choose_style(index))
    panel.set_title(metric, fontsize="medium")
    panel.grid(alpha=0.3)
    return lines


def _label_x_axis(panel: "Axes", label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel(label)
    panel.xaxis.set_major_locator(MaxNLocator(integer=label == EPOCH))


def _choose_style(index: int) -> dict[str, Any]:
    """Return the color and dashes of a run, which are the same in every panel."""
    dashes = _DASHES[index // _NUM_COLORS % len(_DASHES)]
    return {"color": f"C{index % _NUM_COLORS}", "linestyle": dashes}


def _add_legend(figure: "Figure", lines: "Mapping[str, Artist]") -> None:
    """Add one legend for all panels, because a run may lack the metric of the first panel."""
    figure.legend(
        list(lines.values()),
        [run[:_MAX_LABEL] for run in lines],
        loc="outside lower center",
        ncols=_COLUMNS,
        fontsize="small",
    )
