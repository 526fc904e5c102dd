"""Metric histories of several runs over each other, as a picture."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_INCHES = (4.2, 3.0)  # of one panel
_COLUMNS = 2
_MAX_LABEL = 40
_NUM_COLORS = 10  # of matplotlib's cycle
_DASHES = ("-", "--", ":")


def draw_curves(
    curves: Mapping[str, Mapping[str, Mapping[int, float]]], *, order: Sequence[str]
) -> bytes:
    """A panel a metric, a line a run: `curves[metric][run][epoch]`; runs in `order`.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not curves:
        raise ValueError("no curves to draw")
    from matplotlib.figure import Figure

    num_rows = math.ceil(len(curves) / _COLUMNS)
    figure = Figure(
        figsize=(_INCHES[0] * _COLUMNS, _INCHES[1] * num_rows), dpi=110, layout="constrained"
    )
    panels = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel()
    lines = {}  # of each run, one for the legend
    for panel, (metric, runs) in zip(panels, curves.items(), strict=False):
        for place, run in enumerate(order):
            if points := sorted(runs.get(run, {}).items()):
                epochs, values = zip(*points, strict=True)
                [lines[run]] = panel.plot(epochs, values, marker=".", **_choose_style(place))
        panel.set_title(metric, fontsize="medium")
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    for panel in panels[len(curves) :]:
        panel.axis("off")
    _add_legend(figure, {run: lines[run] for run in order if run in lines})
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _choose_style(place: int) -> dict[str, str]:
    """Colour and dashes of the run at `place`, the same in every panel."""
    dashes = _DASHES[place // _NUM_COLORS % len(_DASHES)]
    return {"color": f"C{place % _NUM_COLORS}", "linestyle": dashes}


def _add_legend(figure: "Figure", lines: "Mapping[str, Artist]") -> None:
    """Every run once, below the panels: one may lack the first panel's metric."""
    figure.legend(
        list(lines.values()),
        [run[:_MAX_LABEL] for run in lines],
        loc="outside lower center",
        ncols=_COLUMNS,
        fontsize="small",
    )
