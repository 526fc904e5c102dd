"""The view of an experiment: columns and charts, in the format of MLflow's saved views.

MLflow's page reads a saved view from the experiment's tag `mlflow.sharedViewState.NAME`. Its value
is an envelope (name, time and the state, a zlib stream in base64); before MLflow 3.17 it was the
state alone. The tag has both: each version ignores what it does not know.

Source:
    `ExperimentPageUIState.tsx`, `runs-charts.types.ts`, `useSharedExperimentViewState.tsx` and
    `savedViewUtils` in MLflow's `mlflow/server/js/src/experiment-tracking` (3.17).
"""

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

VIEW_NAME = "trialrun"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_NAME}"
# Texts in the program of MLflow's page without which it cannot read the view.
VIEW_MARKERS = (
    "viewStateShareKey",
    "mlflow.sharedViewState.",
    '"selectedColumns"',
    '"compareRunCharts"',
    '"compareRunSections"',
    "selectedMetricKeys",
    "deflate;",
)
_MAX_TAG_LENGTH = 5000  # of an experiment's tag in MLflow
_ACCURACY, _LOSS = "best_valid_accuracy", "best_valid_loss"
_TRAINING, _SETTINGS, _BEST, _SEARCH = "Training", "Searched settings", "Best epoch", "Search"
_SECTIONS = {_TRAINING: 2, _SETTINGS: 1, _BEST: 2, _SEARCH: 2}  # charts side by side
# MLflow adds charts of all other metrics to sections with these names.
_OTHERS = ("Model metrics", "System metrics")
_COLUMNS = ("learning_rate", "batch_size", "model")
_LINE_OPTIONS = {"xAxisKey": "step", "lineSmoothness": 0}  # MLflow would smooth the lines
_COLUMN_PIXELS = 100
_WIDE_COLUMNS = {  # their names are long
    f"metrics.`{_ACCURACY}`": 150,
    f"metrics.`{_LOSS}`": 125,
    "params.`learning_rate`": 115,
}


def format_view(searched: Sequence[str], created_ms: int) -> str:
    """Return the tag's value; `searched` are the settings that differ between the trials."""
    state = build_state(searched)
    text = json.dumps(state, separators=(",", ":"))
    packed = "deflate;" + base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    envelope = {"name": VIEW_NAME, "createdAt": created_ms, "state": packed}
    value = json.dumps(envelope | state, separators=(",", ":"))
    return value if len(value) <= _MAX_TAG_LENGTH else json.dumps(envelope)


def build_state(searched: Sequence[str]) -> dict[str, Any]:
    """Return the state of the page: order of the runs, columns, charts and their sections.

    Runs that are not ordered by time are not nested, so trials are shown without a click.
    """
    columns = _list_columns(searched)
    return {
        "orderByKey": f"metrics.`{_ACCURACY}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, _COLUMN_PIXELS) | _WIDE_COLUMNS,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [*_list_line_charts(), *_list_comparisons(searched)],
        "compareRunSections": [
            *(_make_section(name, columns=num) for name, num in _SECTIONS.items()),
            *(_make_section(name, is_open=False) for name in _OTHERS),
        ],
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
    }


def _list_columns(searched: Sequence[str]) -> list[str]:
    return [
        *(f"metrics.`{name}`" for name in (_ACCURACY, _LOSS)),
        *(f"params.`{name}`" for name in dict.fromkeys([*_COLUMNS, *searched])),
        "tags.`stop_reason`",
        "attributes.`Duration`",
    ]


def _make_section(name: str, *, is_open: bool = True, columns: int = 3) -> dict[str, Any]:
    place = {"uuid": _name_section(name), "name": name}
    return {**place, "display": is_open, "isReordered": False, "columns": columns}


def _name_section(name: str) -> str:
    return f"{VIEW_NAME}-{name.lower().replace(' ', '-')}"


def _list_line_charts() -> list[dict[str, Any]]:
    """Return the learning curves, and the values of the trials in a search's run.

    MLflow hides charts without data.
    """
    return [
        _make_line(_TRAINING, "train_loss", "valid_loss"),
        _make_line(_TRAINING, "train_accuracy", "valid_accuracy"),
        _make_line(_SEARCH, "trial_valid_loss"),
        _make_line(_SEARCH, "trial_valid_accuracy"),
    ]


def _make_line(section: str, *metrics: str) -> dict[str, Any]:
    values = {"metricKey": metrics[0], "selectedMetricKeys": list(metrics), **_LINE_OPTIONS}
    return _make_chart(section, "LINE", metrics[-1], **values)


def _list_comparisons(searched: Sequence[str]) -> list[dict[str, Any]]:
    """Return the charts that compare runs; parallel coordinates need a setting that differs."""
    axes = {"selectedParams": list(searched), "selectedMetrics": [_LOSS, _ACCURACY]}
    return [
        *([_make_chart(_SETTINGS, "PARALLEL", "parallel", **axes)] if searched else []),
        *(_make_chart(_BEST, "BAR", name, metricKey=name) for name in (_ACCURACY, _LOSS)),
    ]


def _make_chart(section: str, kind: str, name: str, **values: Any) -> dict[str, Any]:
    place = {"uuid": f"{VIEW_NAME}-{name}", "metricSectionId": _name_section(section)}
    return {"type": kind, **place, "deleted": False, "isGenerated": False, **values}
