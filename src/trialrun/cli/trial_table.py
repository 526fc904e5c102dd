"""The table of trials: a heading, and one line per trial with its objectives and settings."""

import sys
from typing import TYPE_CHECKING, Any

from trialrun.cli.terminal import find_width, paint, wrap

if TYPE_CHECKING:
    from trialrun.tuning.callbacks import TrialReport

_GAP = "  "
_MIN_WIDTH = 9  # of a number with four digits, such as 0.0001234
_MARK_WIDTH = 4


class TrialTable:
    """Formats the trials of a search; the columns are those of its first trial.

    Settings that do not fit beside each other are listed below the trial.
    """

    def __init__(self) -> None:
        self._columns: tuple[str, ...] = ()
        self._metrics: tuple[str, ...] = ()

    def format_trial(self, report: "TrialReport") -> list[str]:
        """Return the lines of a trial, with the heading before them if the columns are new."""
        lines: list[str] = []
        self._metrics = tuple(report.objectives) or self._metrics
        columns = (*self._metrics, *report.settings)
        is_wide = _measure(columns) > find_width(sys.stderr)
        if columns != self._columns and not is_wide:
            lines.append(paint(_format_line("", columns, columns), "bold", sys.stderr))
        self._columns = columns
        objectives = [_format_value(report.objectives.get(name)) for name in self._metrics]
        if is_wide:
            return [*lines, *_format_below(report, objectives, self._metrics)]
        cells = [*objectives, *map(_format_value, report.settings.values())]
        return [*lines, _format_line(_format_title(report), cells, columns) + _format_mark(report)]


def _measure(columns: tuple[str, ...]) -> int:
    title = len("Trial 1000")
    return title + sum(_width(name) + len(_GAP) for name in columns) + len(_GAP) + _MARK_WIDTH


def _width(name: str) -> int:
    return max(len(name), _MIN_WIDTH)


def _format_line(title: str, cells: "tuple[str, ...] | list[str]", columns: tuple[str, ...]) -> str:
    padded = [cell.rjust(_width(name)) for cell, name in zip(cells, columns, strict=True)]
    return _GAP.join([title.ljust(len("Trial 1000")), *padded])


def _format_below(
    report: "TrialReport", objectives: list[str], metrics: tuple[str, ...]
) -> list[str]:
    results = "".join(
        f"{_GAP}{name} {text}" for name, text in zip(metrics, objectives, strict=True)
    )
    settings = _GAP.join(
        f"{name}={_format_value(value)}" for name, value in report.settings.items()
    )
    lines = wrap(settings, find_width(sys.stderr), "    ", first="    ").splitlines()
    return [f"{_format_title(report)}{results}{_format_mark(report)}", *lines]


def _format_title(report: "TrialReport") -> str:
    return f"Trial {report.number}"


def _format_mark(report: "TrialReport") -> str:
    """Return what follows the columns: why there is no result, the replicate, or `best`."""
    if report.problem:
        return f"{_GAP}{report.problem}"
    if report.replicate is not None:
        return f"{_GAP}replicate {report.replicate}"
    return _GAP + paint("best", "green", sys.stderr) if report.is_best else ""


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
