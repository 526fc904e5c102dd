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
_TRAINING, _COMPARISON, _SEARCH = "Training", "Comparison", "Search"
# MLflow adds charts of all other metrics to sections with these names.
_OTHERS = ("Model metrics", "System metrics")
_SETTINGS = ("learning_rate", "batch_size", "model")


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
    charts = [*_list_training_charts(), *_list_comparison_charts(searched), *_list_search_charts()]
    return {
        "orderByKey": f"metrics.`{_ACCURACY}`",
        "orderByAsc": False,
        "selectedColumns": _list_columns(searched),
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            *(_make_section(name, is_open=True) for name in (_TRAINING, _COMPARISON, _SEARCH)),
            *(_make_section(name, is_open=False) for name in _OTHERS),
        ],
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
    }


def _list_columns(searched: Sequence[str]) -> list[str]:
    settings = dict.fromkeys([*_SETTINGS, *searched])
    metrics = (_ACCURACY, _LOSS, "best_epoch")
    return [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in settings),
        "tags.`stop_reason`",
        "attributes.`Duration`",
        "attributes.`Models`",
    ]


def _make_section(name: str, *, is_open: bool) -> dict[str, Any]:
    return {"uuid": _name_section(name), "name": name, "display": is_open, "isReordered": False}


def _name_section(name: str) -> str:
    return f"{VIEW_NAME}-{name.lower().replace(' ', '-')}"


def _list_training_charts() -> list[dict[str, Any]]:
    return [
        _make_line(_TRAINING, "Loss", ("train_loss", "valid_loss")),
        _make_line(_TRAINING, "Accuracy", ("train_accuracy", "valid_accuracy")),
    ]


def _list_comparison_charts(searched: Sequence[str]) -> list[dict[str, Any]]:
    """Return the charts that compare runs; parallel coordinates need a setting that differs."""
    parallel = {
        "selectedParams": list(searched),
        "selectedMetrics": [_LOSS, _ACCURACY],
        "runsCountToCompare": 100,
    }
    return [
        *([_make_chart(_COMPARISON, "PARALLEL", "parallel", **parallel)] if searched else []),
        *(_make_chart(_COMPARISON, "BAR", name, metricKey=name) for name in (_ACCURACY, _LOSS)),
    ]


def _list_search_charts() -> list[dict[str, Any]]:
    """Return the charts of a search's parent run; MLflow hides those without data."""
    return [
        _make_line(_SEARCH, f"{metric} by trial", (f"trial_{metric}",))
        for metric in ("valid_loss", "valid_accuracy")
    ]


def _make_line(section: str, title: str, metrics: Sequence[str]) -> dict[str, Any]:
    values = {"metricKey": metrics[0], "selectedMetricKeys": list(metrics), "displayName": title}
    return _make_chart(section, "LINE", title.lower().replace(" ", "-"), **values)


def _make_chart(section: str, kind: str, name: str, **values: Any) -> dict[str, Any]:
    place = {"uuid": f"{VIEW_NAME}-{name}", "metricSectionId": _name_section(section)}
    return {"type": kind, **place, "deleted": False, "isGenerated": False, **values}
