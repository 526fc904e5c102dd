"""Runs the code blocks of README and docs/, page by page, each in an empty folder."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest
from mlflow.projects._project_spec import load_project

from scripts.metrics import EPOCH_METRICS, EVALUATION_METRICS, SUMMARY_METRICS
from tests.conftest import SHARED, write_image
from tests.docs.blocks import PAGES, ROOT, Block, list_commands, name_page, read_blocks, split_lines
from tests.processes import run_program

TRANSLATIONS = {
    "docs/ja/first-ten-minutes.md": "docs/first-ten-minutes.md",
    "docs/ja/azure.md": "docs/azure.md",
}
# Pages that continue in the folder of another one, in this order: what ran there is not repeated.
# docs/index.md registers the model that the pages after it use.
CONTINUED = {
    "docs/first-ten-minutes.md": ["README.md"],
    "docs/index.md": ["docs/export.md", "docs/library.md", "docs/scoring.md"],
}
COLORS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "fox": (40, 40, 220)}


def select_pages() -> list[str]:
    """Return the pages that begin a folder and have blocks to run, the slowest first."""
    others = {page for pages in CONTINUED.values() for page in pages} | TRANSLATIONS.keys()
    pages = {name_page(page) for page in PAGES if any(block.is_run for block in read_blocks(page))}
    return [*CONTINUED, *sorted(pages - others - CONTINUED.keys())]


def write_photos(folder: Path, num_images: int, *, seed: int) -> Path:
    """Write images of three classes, as large as those of the digits, so that tests are fast."""
    for place, (name, color) in enumerate(COLORS.items()):
        for number in range(1, num_images + 1):
            image = folder / name / f"{number}.png"
            write_image(image, color, seed=seed + 1000 * place + number)
    return folder


class Reader:
    """Types the blocks of pages in a folder that has the files that the pages speak of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done: set[tuple[str, ...]] = set()
        home = folder.parent
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "TRIALRUN_CACHE": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
        }
        photos = write_photos(folder / "photos", 20, seed=0)
        write_photos(folder / "more-photos", 3, seed=5000)
        shutil.copy(photos / "fox" / "1.png", folder / "photo.jpg")
        shutil.make_archive(str(folder / "flowers"), "zip", photos)
        shutil.copy(ROOT / "MLproject", folder)
        if (SHARED / "azure").is_dir():
            shutil.copytree(SHARED / "azure", folder / "azure")
            shutil.copytree(SHARED / "azure" / "model_directory", folder / "azure_model")

    def follow(self, page: str) -> None:
        """Run every block of a page that can be run."""
        for block in read_blocks(ROOT / page):
            first_line, _, _ = block.text.partition("\n")
            if block.language == "yaml" and first_line.startswith("# "):
                (self._folder / first_line.removeprefix("# ")).write_text(block.text, "utf-8")
            elif block.is_run:
                self._run_block(block)

    def _run_block(self, block: Block) -> None:
        if block.language == "python":
            self._run([sys.executable, "-c", block.text])
            return
        for line in split_lines(block.text):
            self.run_line(line)

    def run_line(self, line: str) -> None:
        """Run a line of a shell block, except installations and what ran before."""
        words = shlex.split(line, comments=True)
        if tuple(words) in self._done or words[:2] == ["pip", "install"]:
            return
        self._done.add(tuple(words))
        if words[0] == "trialrun":
            self._run([sys.executable, "-m", "trialrun", *words[1:]])
        else:
            subprocess.run(["bash", "-c", line], cwd=self._folder, check=True)

    def _run(self, command: list[str]) -> None:
        done = run_program(command, cwd=self._folder, env=self._environment)
        assert done.returncode == 0, f"{command[1:]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", select_pages())
def test_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    """A reader who types the blocks of a page in order gets no error."""
    if page in ("docs/azure.md", "docs/models.md") and not (SHARED / "azure").is_dir():
        pytest.skip("the files of Azure ML designer are not beside this checkout")
    folder = tmp_path / "folder"
    folder.mkdir()
    reader = Reader(folder)
    for following in [page, *CONTINUED.get(page, [])]:
        reader.follow(following)
    if page == "docs/first-ten-minutes.md":
        check_metrics(folder)
    if page == "docs/machines.md":
        assert load_project(str(folder / "project")).docker_env


def check_metrics(folder: Path) -> None:
    """Compare the metrics that the runs of a folder logged with those of the page of metrics."""
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs(["0"])
    assert len(runs) > 1
    known = EPOCH_METRICS.keys() | SUMMARY_METRICS.keys() | EVALUATION_METRICS.keys()
    assert not find_unknown(runs[-1].data.metrics, known)
    assert not find_unknown(runs[0].data.metrics, known)


def find_unknown(metrics: Mapping[str, float], known: set[str]) -> set[str]:
    """Return the names of metrics that are not known, limits of intervals and classes aside."""
    names = {name.removesuffix("_low").removesuffix("_high") for name in metrics}
    names = {name for name in names if not name.startswith("system/")}
    return {name.partition("/")[0] + "/CLASS" if "/" in name else name for name in names} - known


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_translation_has_the_blocks_of_its_original(translation: str) -> None:
    """The commands of a translated page are those of the English one, which are run."""
    original = read_blocks(ROOT / TRANSLATIONS[translation])
    translated = read_blocks(ROOT / translation)
    assert [block.text for block in translated] == [block.text for block in original]
    assert [block.is_run for block in translated] == [block.is_run for block in original]


def test_extras_that_pages_install_exist() -> None:
    """`pip install 'trialrun[EXTRA]'` names extras of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for page, words in list_commands("pip install"):
        for word in words:
            name, _, extras = word.partition("[")
            if name in ("trialrun", ".") and extras:
                names = set(extras.removesuffix("]").split(","))
                assert names <= project["optional-dependencies"].keys(), page
