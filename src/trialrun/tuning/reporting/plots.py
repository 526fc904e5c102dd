"""Optuna's pictures of a study, as PNG.

Drawn by matplotlib, which MLflow brings along: plotly would be a dependency more, and its pages
load a script from the network before they show anything.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.study.storage import silence_optuna

if TYPE_CHECKING:
    from optuna import Study

_DOTS_PER_INCH = 100
_CONTOUR_SETTINGS = 4  # the most important ones: a picture of n settings has n * n fields
_MAX_PARETO = 3  # metrics that a picture can show


def draw_plots(study: "Study", plan: SearchPlan, folder: Path) -> Iterator[tuple[Path | None, str]]:
    """Every picture the study has enough trials for: its file, or None and why there is none."""
    import warnings

    import matplotlib

    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")  # no window; a notebook's own choice stays
    for name, picture in _list_plots(study, plan).items():
        try:
            # Optuna sets a style for good, which is not to become a caller's own.
            with silence_optuna(), warnings.catch_warnings(), matplotlib.rc_context():
                warnings.simplefilter("ignore")  # of ranges without extent and the like
                yield _save_plot(picture, folder / f"{name}.png"), ""
        except (ValueError, RuntimeError) as error:
            yield None, f"no picture of the {name.replace('_', ' ')}: {error}"


def _save_plot(picture: Callable[[], Any], path: Path) -> Path:
    from matplotlib import pyplot

    there = set(pyplot.get_fignums())  # a caller's own
    try:
        picture()
        figure = pyplot.gcf()
        figure.savefig(path, dpi=_DOTS_PER_INCH, bbox_inches="tight")
    finally:
        for number in set(pyplot.get_fignums()) - there:
            pyplot.close(number)
    return path


def _list_plots(study: "Study", plan: SearchPlan) -> dict[str, Callable[[], Any]]:
    from optuna.visualization import matplotlib as optuna_plots

    first: dict[str, Any] = {"target": _first_value, "target_name": plan.objectives[0].metric}
    names = list(plan.space.dimensions)
    pictures: dict[str, Callable[[], Any]] = {
        "history": lambda: optuna_plots.plot_optimization_history(study, **first),
        "slice": lambda: optuna_plots.plot_slice(study, params=names, **first),
    }
    if len(names) > 1:
        pictures |= {
            "parallel_coordinates": lambda: optuna_plots.plot_parallel_coordinate(
                study, params=names, **first
            ),
            "contour": lambda: optuna_plots.plot_contour(
                study, params=_find_important(study, names, first), **first
            ),
            "importances": lambda: optuna_plots.plot_param_importances(
                study, params=names, **first
            ),
        }
    if len(plan.objectives) == 1:
        pictures["intermediate_values"] = lambda: optuna_plots.plot_intermediate_values(study)
    elif len(plan.objectives) <= _MAX_PARETO:
        metrics = [objective.metric for objective in plan.objectives]
        pictures["pareto_front"] = lambda: optuna_plots.plot_pareto_front(
            study, target_names=metrics
        )
    return pictures


def _find_important(study: "Study", names: list[str], first: dict[str, Any]) -> list[str]:
    """The settings that matter most; importances cost, so only where there are many."""
    if len(names) <= _CONTOUR_SETTINGS:
        return names
    from optuna.importance import get_param_importances

    ranked = get_param_importances(study, params=names, target=first["target"])
    return list(ranked)[:_CONTOUR_SETTINGS]


def _first_value(trial: Any) -> float:
    return float(trial.values[0])
