"""Optuna's plots of a study, as PNG files.

They use matplotlib, which MLflow depends on. Plotly would be a further dependency, and its pages
load a script from the network.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.deferred_modules import replace_modules
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.study.storage import silence_optuna

if TYPE_CHECKING:
    from optuna import Study

_DOTS_PER_INCH = 100
_CONTOUR_LOGGER = "optuna.visualization._contour"
_CONTOUR_MESSAGE = "unique value length is less than 2."
_CONTOUR_SETTINGS = 4  # the most important ones: n settings give n * n panels
_MAX_PARETO = 3  # metrics that a plot can show


def draw_plots(study: "Study", plan: SearchPlan, folder: Path) -> Iterator[tuple[Path | None, str]]:
    """Draw the plots; yield each file, or None and the reason if the study has too few trials."""
    import warnings

    import matplotlib

    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")  # opens no window; a notebook's backend is kept
    for name, draw in _list_plots(study, plan).items():
        try:
            # Optuna changes matplotlib's style; the context restores the caller's.
            with (
                silence_optuna(),
                _silence_contour_plot(),
                warnings.catch_warnings(),
                matplotlib.rc_context(),
            ):
                warnings.simplefilter("ignore")  # such as those for axes without extent
                yield _save_plot(draw, folder / f"{name}.png"), ""
        except (ValueError, RuntimeError) as error:
            yield None, f"no {name.replace('_', ' ')} plot: {error}"


@contextmanager
def _silence_contour_plot() -> Iterator[None]:
    """Suppress Optuna's messages about settings with one value: their panels stay empty."""
    logger = logging.getLogger(_CONTOUR_LOGGER)
    logger.addFilter(_has_other_message)
    try:
        yield
    finally:
        logger.removeFilter(_has_other_message)


def _has_other_message(record: logging.LogRecord) -> bool:
    return not record.getMessage().endswith(_CONTOUR_MESSAGE)


def _save_plot(draw: Callable[[], Any], path: Path) -> Path:
    from matplotlib import pyplot

    callers_figures = set(pyplot.get_fignums())
    try:
        draw()
        figure = pyplot.gcf()
        figure.savefig(path, dpi=_DOTS_PER_INCH, bbox_inches="tight")
    finally:
        for number in set(pyplot.get_fignums()) - callers_figures:
            pyplot.close(number)
    return path


def _list_plots(study: "Study", plan: SearchPlan) -> dict[str, Callable[[], Any]]:
    # Importances are those of Optuna's default, PED-ANOVA. Optuna imports random forests for the
    # other kinds, which takes a second.
    with replace_modules("sklearn", "sklearn.ensemble"):
        import optuna.importance
    from optuna.visualization import matplotlib as optuna_plots

    assert optuna.importance  # the import has an effect

    target: dict[str, Any] = {"target": _first_value, "target_name": plan.objectives[0].metric}
    names = list(plan.space.dimensions)
    plots: dict[str, Callable[[], Any]] = {
        "history": lambda: optuna_plots.plot_optimization_history(study, **target),
        "slice": lambda: optuna_plots.plot_slice(study, params=names, **target),
    }
    if len(names) > 1:
        plots |= {
            "parallel_coordinates": lambda: optuna_plots.plot_parallel_coordinate(
                study, params=names, **target
            ),
            "contour": lambda: optuna_plots.plot_contour(
                study, params=_find_important(study, names), **target
            ),
            "importances": lambda: optuna_plots.plot_param_importances(
                study, params=names, **target
            ),
        }
    if len(plan.objectives) == 1:
        plots["intermediate_values"] = lambda: optuna_plots.plot_intermediate_values(study)
    elif len(plan.objectives) <= _MAX_PARETO:
        metrics = [objective.metric for objective in plan.objectives]
        plots["pareto_front"] = lambda: optuna_plots.plot_pareto_front(study, target_names=metrics)
    return plots


def _find_important(study: "Study", names: list[str]) -> list[str]:
    """Return the most important settings; importances are computed only if there are many."""
    if len(names) <= _CONTOUR_SETTINGS:
        return names
    from optuna.importance import get_param_importances

    ranked = get_param_importances(study, params=names, target=_first_value)
    return list(ranked)[:_CONTOUR_SETTINGS]


def _first_value(trial: Any) -> float:
    return float(trial.values[0])
