"""The view of an experiment in the format of MLflow's page."""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import mlflow.server
import pytest

from trialrun.runs.ui.view import VIEW_MARKERS, build_state, format_view

SEARCHED = ("learning_rate", "batch_size", "optimizer")


def read_state(value: str) -> dict[str, Any]:
    """Return the state in the envelope of a tag, as MLflow's page reads it."""
    packed = json.loads(value)["state"]
    state: dict[str, Any] = json.loads(
        zlib.decompress(base64.b64decode(packed.removeprefix("deflate;")))
    )
    return state


def test_envelope_and_plain_fields_have_the_same_state() -> None:
    """The page of MLflow 3.17 reads the first, that of earlier versions the second."""
    value = format_view(SEARCHED, 1)
    state = read_state(value)
    assert state == build_state(SEARCHED)
    assert state.items() <= json.loads(value).items()


def test_value_fits_into_a_tag() -> None:
    """With many settings, only the packed state remains: a tag has 5,000 characters."""
    searched = [f"setting_number_{number}" for number in range(60)]
    value = format_view(searched, 1)
    assert len(value) <= 5000
    assert read_state(value) == build_state(searched)


def test_every_chart_is_in_a_section() -> None:
    """MLflow shows no chart whose section it does not know, and expects names of their own."""
    state = build_state(SEARCHED)
    sections = {section["uuid"] for section in state["compareRunSections"]}
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} <= sections
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_parallel_coordinates_have_the_searched_settings() -> None:
    """Neither the seed nor a setting that all runs share is an axis."""
    charts = build_state(SEARCHED)["compareRunCharts"]
    (parallel,) = [chart for chart in charts if chart["type"] == "PARALLEL"]
    assert parallel["selectedParams"] == list(SEARCHED)
    assert parallel["selectedMetrics"][-1] == "best_valid_accuracy"


def test_without_searched_settings_there_are_no_parallel_coordinates() -> None:
    """The chart would be empty."""
    charts = build_state(())["compareRunCharts"]
    assert "PARALLEL" not in {chart["type"] for chart in charts}


@pytest.mark.parametrize("marker", VIEW_MARKERS)
def test_installed_page_knows_the_format(marker: str) -> None:
    """A new version of MLflow that fails here needs a look at the view."""
    folder = Path(mlflow.server.__file__).parent / "js" / "build" / "static" / "js"
    (program,) = folder.glob("main.*.js")
    assert marker in program.read_text("utf-8")
