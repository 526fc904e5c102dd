"""The wheel and the source distribution: what `python -m build` puts into them."""

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import trialrun

ROOT = Path(__file__).parents[1]
DATA_FILES = {"py.typed", "serving/http/openapi.html", "serving/http/page.html"}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both without isolation, so that nothing is fetched; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def wheel(distributions: Path) -> zipfile.ZipFile:
    """The wheel."""
    return zipfile.ZipFile(next(distributions.glob("*.whl")))


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every module and data file of src/trialrun is in the wheel; no test and no benchmark is."""
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "trialrun").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    data = {name.removeprefix("trialrun/") for name in found if not name.endswith(".py")}
    assert data == DATA_FILES


def test_wheel_has_license_commands_and_plugin(wheel: zipfile.ZipFile) -> None:
    """The metadata has the license, the command `trialrun` and the evaluator of MLflow."""
    folder = f"trialrun-{trialrun.__version__}.dist-info"
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "trialrun = trialrun.cli:main" in entry_points
    assert "[mlflow.model_evaluator]" in entry_points


def test_wheel_has_the_version_of_the_package(wheel: zipfile.ZipFile) -> None:
    """The version is declared once, in `trialrun.__version__`."""
    name = f"trialrun-{trialrun.__version__}.dist-info/METADATA"
    assert email.message_from_bytes(wheel.read(name))["Version"] == trialrun.__version__


def test_source_distribution_has_the_package_and_its_documents(distributions: Path) -> None:
    """It has the sources, the lock and the changelog; no test, no benchmark."""
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "requirements.lock", "LICENSE", "README.md"} <= names
    assert {"CHANGELOG.md", "CITATION.cff", "src/trialrun/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]
