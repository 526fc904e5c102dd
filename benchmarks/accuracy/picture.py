"""The picture of accuracy by seconds: one panel per set, a median line and a band per trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.results import Result, select
from benchmarks.accuracy.sets import ImageSet
from trialrun.report.figures.canvas import create_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (4.0, 3.4)  # of one panel
_COLORS = ("#d1342f", "#4269d0", "#3ca951", "#9c6b4e", "#a463f2", "#6b7280")
_NUM_TIMES = 400
_QUARTILES = (0.25, 0.5, 0.75)


def draw_picture(
    results: Sequence[Result], sets: Sequence[ImageSet], names: Sequence[str]
) -> bytes:
    """Return a PNG; `names` are the trainers in the order of the legend, trialrun first."""
    from matplotlib.lines import Line2D

    figure = create_figure(_INCHES[0] * len(sets), _INCHES[1])
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for panel, images in zip(panels, sets, strict=True):
        for number, name in reversed(list(enumerate(names))):
            found = select(results, images.name, name)
            if any(result.points for result in found):
                _draw_trainer(panel, found, _COLORS[number % len(_COLORS)], is_ours=number == 0)
        _finish_panel(panel, images)
    panels[0].set_ylabel("best validation accuracy so far")
    handles = [
        Line2D([], [], color=_COLORS[number % len(_COLORS)], linewidth=2.5 if number == 0 else 1.5)
        for number in range(len(names))
    ]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return save_png(figure)


def write_picture(
    file: Path, results: Sequence[Result], sets: Sequence[ImageSet], names: Sequence[str]
) -> None:
    """Write the picture to a file."""
    file.write_bytes(draw_picture(results, sets, names))


def compute_band(results: Sequence[Result]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times, and quartiles over processes of the best accuracy so far: (3, times).

    A process has accuracy 0 before its first epoch ends, and keeps its best one after its last.
    """
    end = max(result.points[-1][0] for result in results if result.points)
    times = np.linspace(0, end, _NUM_TIMES)
    best = np.stack([_find_best(result, times) for result in results])
    return times, np.quantile(best, _QUARTILES, axis=0)


def _find_best(result: Result, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best accuracy of a process at each time."""
    at = np.array([seconds for seconds, _ in result.points])
    best = np.maximum.accumulate([0.0, *(accuracy for _, accuracy in result.points)])
    return np.asarray(best, np.float64)[np.searchsorted(at, times, side="right")]


def _draw_trainer(panel: "Axes", results: Sequence[Result], color: str, *, is_ours: bool) -> None:
    times, (low, middle, high) = compute_band(results)
    has_begun = middle > 0
    is_known = low > 0  # of at least three quarters of the processes
    width, layer = (2.5, 3) if is_ours else (1.5, 2)
    panel.fill_between(times, low, high, where=is_known, color=color, alpha=0.15, linewidth=0)
    panel.plot(times[has_begun], middle[has_begun], color=color, linewidth=width, zorder=layer)


def _finish_panel(panel: "Axes", images: ImageSet) -> None:
    panel.axhline(images.accuracy, color="#555555", linewidth=0.8, linestyle="--")
    panel.annotate(
        f"{images.accuracy:.2f}",
        (1, images.accuracy),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    panel.set_title(images.title, fontsize=9)
    panel.set_xlabel("seconds since the start of the process")
    panel.set_xlim(left=0)
    panel.set_ylim(max(0.0, images.accuracy - 0.3), 1.0)
    panel.spines[["top", "right"]].set_visible(False)
