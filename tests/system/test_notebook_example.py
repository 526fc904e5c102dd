"""The notebook in examples, run as a user does: in an empty folder with a store of its own."""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "digits.ipynb"


def read_notebook() -> Any:
    """Return the notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def join_outputs(notebook: Any, kind: str) -> str:
    """Return the outputs of a kind, such as text/html, of all cells."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.data[kind] for output in outputs if kind in output.get("data", {}))


def test_notebook_has_no_outputs() -> None:
    """Outputs contain paths and dates of the machine that made them."""
    notebook = read_notebook()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in cells if cell.outputs or cell.execution_count is not None]


@pytest.mark.slow
@pytest.mark.report
def test_notebook_runs_from_data_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs; a champion has scored the images, and results are shown as tables."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "work"
    folder.mkdir()
    notebook = read_notebook()
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", resources=resources, timeout=500).execute()
    tables = join_outputs(notebook, "text/html")
    captions = ("Training FINISHED", "Search FINISHED", "became champion", "Scored images")
    for text in (*captions, "champion of digits", "train loss"):
        assert text in tables
    assert "<progress" not in tables  # the bars are gone
    assert len((folder / "scored.csv").read_text("utf-8").splitlines()) == 180
