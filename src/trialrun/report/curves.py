"""Metric histories of several runs over each other, as a picture."""

import io
import math
from collections.abc import Mapping, Sequence

_INCHES = (4.2, 3.0)  # of one panel
_COLUMNS = 2
_MAX_LABEL = 40


def curves_png(
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
    for panel, (metric, runs) in zip(panels, curves.items(), strict=False):
        for run in order:
            if points := sorted(runs.get(run, {}).items()):
                epochs, values = zip(*points, strict=True)
                panel.plot(epochs, values, marker=".", label=run[:_MAX_LABEL])
        panel.set_title(metric, fontsize="medium")
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    for panel in panels[len(curves) :]:
        panel.axis("off")
    panels[0].legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
