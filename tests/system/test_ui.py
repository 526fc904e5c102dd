"""MLflow's own pages show a search and a training without a click, in a headless Chromium."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import pytest
from playwright.sync_api import Page

from scripts.browser import find_chromium, open_page, show
from tests.conftest import SMALL, write_classes
from tests.processes import ForkedProgram, run_program
from tests.servers import copy_empty_store
from tests.system.conftest import skip_unless_ci

pytestmark = pytest.mark.slow

EXPERIMENT = "colors"
MODE = "workflowType=machine_learning"
FIXED = ("--experiment", EXPERIMENT, "--model", SMALL, "--epochs", "2", "--device", "cpu")
NUM_DRAWN = """[...document.querySelectorAll('.js-plotly-plot, .parcoords')].filter(
    chart => chart.querySelector('.scatterlayer .trace, .barlayer .trace, canvas')).length"""


@dataclass(frozen=True)
class ShownUi:
    """The UI of a store with a search of three trials and a training with a report."""

    view: str  # address
    search: dict[str, Any]  # what the commands printed
    training: dict[str, Any]

    @property
    def base(self) -> str:
        """The address of the page without its fragment."""
        return self.view.partition("#")[0]

    def find_run(self, run_id: str, tab: str = "") -> str:
        """Return the address of a run's page."""
        experiment_id = self.view.partition("/experiments/")[2].partition("/")[0]
        return f"{self.base}#/experiments/{experiment_id}/runs/{run_id}{tab}?{MODE}"


def run_command(variables: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run a command; return its JSON."""
    command = ["python", "-m", "trialrun", *arguments, "--json"]
    completed = run_program(command, env=variables, timeout=300)
    assert completed.returncode == 0, completed.stderr
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def shown(initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownUi]:
    """Train, then run `trialrun ui` for the tests of this file."""
    if find_chromium() is None:
        skip_unless_ci("Chromium is not installed (Debian: apt install chromium)")
    folder = tmp_path_factory.mktemp("ui")
    copy_empty_store(initialised_store, folder)
    data = write_classes(folder / "colors", {"blue": 12, "green": 12, "red": 12})
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    variables = os.environ | {"MLFLOW_TRACKING_URI": uri}
    mlflow.MlflowClient(uri).create_experiment(EXPERIMENT, str(folder / "artifacts"))
    fixed = (*FIXED, "--train-data", str(data), "--checkpoint-dir", str(folder / "runs"))
    ranges = ("--learning-rate", "1e-3:1e-1", "--batch-size", "8", "--trials", "3")
    search = run_command(variables, "search", *fixed, *ranges, "--register-as", "colors")
    training = run_command(variables, "train", *fixed, "--run-name", "with-report")
    output = folder / "stdout"
    output.touch()
    command = ["python", "-m", "trialrun", "ui", "--port", "0", "--json"]
    process = ForkedProgram(command, env=variables, stdout=output)
    try:
        deadline = time.monotonic() + 120
        while not output.read_text().endswith("\n"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        announced = json.loads(output.read_text())
        assert announced["has_view"], announced
        yield ShownUi(announced["address"], search, training)
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def page(shown: ShownUi) -> Iterator[Page]:
    """A wide page of a browser."""
    command = find_chromium()
    assert command is not None
    with open_page(command, 2200, 2600) as opened:
        yield opened


def test_runs_table_has_the_columns_of_the_view(shown: ShownUi, page: Page) -> None:
    """All trials are shown, the best first, with settings, results and stop reason."""
    table = shown.view.replace("&compareRunsMode=CHART", "")
    columns = ("best_valid_accuracy", "best_valid_loss", "learning_rate", "batch_size")
    text = show(page, table, *columns, "model", "stop_reason", "Duration", "trial-002")
    assert {"trial-000", "trial-001", "with-report", "completed"} <= set(text.split())
    assert "random_seed" not in text


def test_page_is_in_the_mode_for_model_training(shown: ShownUi, page: Page) -> None:
    """The tabs are those of training runs, not of GenAI evaluations."""
    text = show(page, shown.view, "Model training", "trial-000")
    assert "Evaluation runs" not in text
    assert "Models" in text


def test_no_chart_of_the_view_is_empty(shown: ShownUi, page: Page) -> None:
    """Learning curves, parallel coordinates and bars are drawn."""
    titles = ("train_loss vs valid_loss", "train_accuracy vs valid_accuracy")
    more = ("Parallel Coordinates", "trial_valid_loss", "trial_valid_accuracy")
    show(page, shown.view, *titles, *more)
    num_charts = 7
    page.wait_for_function(f"{NUM_DRAWN} >= {num_charts}")
    text = page.inner_text("body")
    assert "No chart data available" not in text
    assert "Error" not in text


def test_trials_can_be_compared(shown: ShownUi, page: Page) -> None:
    """The compare page has the metrics that runs are compared by."""
    runs = quote(json.dumps([shown.search["best_run_id"], shown.training["run_id"]]))
    experiments = quote('["1"]')
    address = f"{shown.base}#/compare-runs?runs={runs}&experiments={experiments}&{MODE}"
    show(page, address, "with-report", "batch_size", "best_valid_accuracy", "best_valid_loss")


def test_page_of_a_search_links_datasets_model_and_version(shown: ShownUi, page: Page) -> None:
    """None of them is missing, although the best trial's run has them."""
    text = show(page, shown.find_run(shown.search["run_id"]), "Registered models", "v1")
    for part in ("train (", "colors", "Logged models (1)", "Search of", "best_settings"):
        assert part in text


def test_charts_of_a_search_are_lines_over_trials(shown: ShownUi, page: Page) -> None:
    """Each metric has a point per trial."""
    address = shown.find_run(shown.search["run_id"], "/model-metrics")
    show(page, address, "best_valid_accuracy", "trial_valid_loss")
    num_charts, num_trials = 6, 3
    points = "document.querySelectorAll('.scatterlayer .trace .point').length"
    page.wait_for_function(f"{points} === {num_charts * num_trials}")


def test_pictures_of_the_report_are_shown(shown: ShownUi, page: Page) -> None:
    """The page of artifacts has a preview of each."""
    address = shown.find_run(shown.training["run_id"], "/artifacts/report/confusion_matrix.png")
    show(page, address, "confusion_matrix.png")
    loaded = "[...document.images].some(image => image.naturalWidth > 300)"
    page.wait_for_function(loaded)


def test_page_of_a_version_has_the_model_card(shown: ShownUi, page: Page) -> None:
    """Its description says how good the model is; its tags are few."""
    text = show(page, f"{shown.base}#/models/colors/versions/1?{MODE}", "Where it fails")
    assert "validation images are classified correctly" in text
    assert "epoch_seconds" not in text
