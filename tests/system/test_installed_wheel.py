"""The wheel in an environment of its own, away from the checkout, at the versions of the lock."""

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import trialrun
from tests.conftest import SMALL
from tests.system.conftest import skip_unless_ci

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build the wheel and install it into an empty environment; yield the command `trialrun`.

    uv links the files of packages that it has installed before, so this takes seconds. Elsewhere
    the environment has 6 GB: it is deleted, while pytest keeps its other folders.
    """
    folder = tmp_path_factory.mktemp("installed")
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        skip_unless_ci("uv is not installed (`make .venv/.installed` installs it)")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", f"--outdir={folder}"]
    _run([*build, str(ROOT)])
    python = folder / "venv" / "bin" / "python"
    _run([found, "venv", "--python", sys.executable, str(folder / "venv")])
    install = [found, "pip", "install", "--python", str(python)]
    constraints = f"--constraints={ROOT / 'requirements.lock'}"
    _run([*install, constraints, str(next(folder.glob("*.whl")))])
    yield python.parent / "trialrun"
    shutil.rmtree(folder)


def _run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a new user: nothing of this environment and its store."""
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, "HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}


def test_installed_wheel_trains_and_scores(
    installed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """In an empty folder, one command trains and registers; the version of the registry scores."""
    folder = tmp_path / "work"
    folder.mkdir()
    train = ["train", "--epochs=1", f"--model={SMALL}", "--register-as=digits", "--json"]
    output = _run([str(installed), *train], cwd=folder, env=environment)
    assert json.loads(output.splitlines()[-1])["model_version"] == "1"
    score = ["score", "models:/digits/1", "sample:digits", "--output=scored.csv"]
    _run([str(installed), *score], cwd=folder, env=environment)
    with (folder / "scored.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1797
    assert not [row for row in rows if row["error"]]
    assert read_version_tags(folder / "mlflow.db") == {trialrun.__version__}


def read_version_tags(database: Path) -> set[str]:
    """Return the versions of trialrun that runs of a store are tagged with."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT value FROM tags WHERE key = 'trialrun.version'"
        return {value for (value,) in connection.execute(query)}


def test_installed_wheel_has_the_version(
    installed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """`trialrun --version`, the metadata and the package agree."""
    code = "from importlib.metadata import version as v; import trialrun as t; "
    code += "print(t.__version__, v('trialrun'), t.__file__)"
    python = str(installed.parent / "python")
    package, metadata, file = _run([python, "-c", code], cwd=tmp_path, env=environment).split()
    printed = _run([str(installed), "--version"], cwd=tmp_path, env=environment)
    assert printed == f"trialrun {trialrun.__version__}\n"
    assert package == metadata == trialrun.__version__
    assert not Path(file).is_relative_to(ROOT)
