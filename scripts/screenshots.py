"""Writes pictures of MLflow's UI into `docs/images`, from the runs in the current store.

`python -m scripts.screenshots --experiment digits` needs Chromium, and an experiment with a search
that registered a version, and a training with a report:

    trialrun search --experiment digits --trials 5 --register-as digits --learning-rate 1e-3:1e-1
    trialrun train --experiment digits --learning-rate 0.01
"""

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from scripts.browser import find_chromium, open_page, show

_FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
_WIDTH, _HEIGHT = 1500, 1000
_NUM_COLORS = 128  # of a picture: keeps the files small
_CLOSE_ASSISTANT = (
    "document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')"
)


@contextmanager
def run_ui(experiment: str) -> Iterator[str]:
    """Run `trialrun ui` in the block; yield the address of the view."""
    command = [sys.executable, "-m", "trialrun", "ui", "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, "--experiment", experiment], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["address"])
    finally:
        process.terminate()
        process.wait()


def list_addresses(view: str, experiment: str) -> dict[str, tuple[str, str]]:
    """Return the address of each picture, and a text that its page shows once it is complete."""
    import mlflow

    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"no experiment {experiment}"
    runs = client.search_runs([found.experiment_id])  # the newest first
    search = next(run for run in runs if "best_trial" in run.data.tags)
    training = next(run for run in runs if not {"study", "best_trial"} & run.data.tags.keys())
    base, _, _ = view.partition("#")
    mode = "?workflowType=machine_learning"
    run_page = f"{base}#/experiments/{found.experiment_id}/runs"
    tags = search.data.tags
    version = f"{base}#/models/{tags['model_name']}/versions/{tags['model_version']}{mode}"
    picture = _find_picture(client, training.info.run_id)
    return {
        "ui-runs": (view.replace("&compareRunsMode=CHART", ""), "best_valid_accuracy"),
        "ui-charts": (view, "Parallel Coordinates"),
        "ui-search": (f"{run_page}/{search.info.run_id}{mode}", "Registered models"),
        "ui-report": (f"{run_page}/{training.info.run_id}/artifacts/{picture}{mode}", "report"),
        "ui-version": (version, "Description"),
    }


def _find_picture(client: Any, run_id: str) -> str:
    """Return the path of the report's confusion matrix."""
    paths = [str(item.path) for item in client.list_artifacts(run_id, "report")]
    return next(path for path in paths if path.endswith(".png") and "confusion" in path)


def take_picture(page: Page, address: str, text: str) -> bytes:
    """Return a PNG of a page, after it shows `text` and its charts are drawn."""
    show(page, address, text)
    page.evaluate(f"{_CLOSE_ASSISTANT}?.click()")
    page.wait_for_timeout(6000)
    return page.screenshot()


def write_picture(path: Path, data: bytes) -> None:
    """Write a picture with few colours."""
    picture = Image.open(io.BytesIO(data)).convert("RGB").quantize(_NUM_COLORS)
    picture.save(path, optimize=True)


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="digits")
    arguments = parser.parse_args()
    command = find_chromium()
    assert command is not None, "Chromium is not installed (Debian: apt install chromium)"
    with (
        run_ui(arguments.experiment) as view,
        open_page(command, _WIDTH, _HEIGHT) as page,
    ):
        for name, (address, text) in list_addresses(view, arguments.experiment).items():
            path = _FOLDER / f"{name}.png"
            write_picture(path, take_picture(page, address, text))
            sys.stdout.write(f"{path.name}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
