"""Tracking servers of other MLflow versions, each in an environment of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import trialrun
from tests.conftest import write_classes
from tests.servers import run_mlflow_server
from tests.system.conftest import skip_unless_ci
from trialrun.cli import run_cli
from trialrun.mlflow_client import describe_store
from trialrun.mlflow_client.server import OLDEST_VERSION

pytestmark = pytest.mark.slow

FindPython = Callable[[str], str]


@pytest.fixture(scope="module")
def find_python(tmp_path_factory: pytest.TempPathFactory) -> FindPython:
    """Return a function that returns the interpreter of an environment with a version of MLflow."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        skip_unless_ci("uv is not installed")

    def install(version: str) -> str:
        folder = tmp_path_factory.mktemp("environment") / version
        python = str(folder / "bin" / "python")
        # These versions of MLflow do not work with a newer SQLAlchemy, though they allow it.
        packages = [f"mlflow=={version}", "sqlalchemy<2.1"]
        for arguments in (
            ["venv", "--python", sys.executable, str(folder)],
            ["pip", "install", "--python", python, *packages],
        ):
            done = subprocess.run([uv, *arguments, "--quiet"], capture_output=True, text=True)
            if done.returncode:
                skip_unless_ci(f"MLflow {version} cannot be installed: {done.stderr}")
        return python

    return install


@pytest.fixture
def start(
    find_python: FindPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Return a function that starts a server of a version and makes it the tracking store."""
    with ExitStack() as stack:

        def start_version(version: str) -> None:
            folder = tmp_path / "server"
            folder.mkdir()
            address = stack.enter_context(run_mlflow_server(folder, find_python(version)))
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
            for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
                monkeypatch.delenv(name, raising=False)

        yield start_version


def test_server_of_mlflow_2_is_refused(
    start: Callable[[str], None], colors: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error comes before a run is created, and says what to do."""
    start("2.22.0")
    assert run_cli(["train", "--train-data", str(colors)]) == 5
    *_, message, hint = capfd.readouterr().err.strip().splitlines()
    assert message.endswith("has MLflow 2.22.0, which has no logged models")
    assert hint.startswith(f"Hint: Upgrade the server to MLflow {OLDEST_VERSION} or newer")


def test_oldest_supported_server_takes_a_model_to_promotion(
    start: Callable[[str], None], colors: Path, tmp_path: Path
) -> None:
    """Training, registration, promotion and history work with the version that the README names."""
    start(OLDEST_VERSION)
    result = trialrun.train(
        train_data=str(colors),
        model="shufflenet_v2_x0_5",
        batch_size=8,
        epochs=1,
        register_as="colors",
    )
    assert result.model_version is not None
    test = write_classes(tmp_path / "test", {"blue": 3, "green": 3, "red": 3}, seed=99)
    command = ["promote", "colors", "--version", "1", "--data", str(test), "--min", "accuracy=0"]
    assert run_cli(command) == 0
    assert [period.version for period in trialrun.history("colors").periods] == ["1"]
    assert describe_store(os.environ["MLFLOW_TRACKING_URI"]).version == OLDEST_VERSION


def test_readme_names_the_oldest_version() -> None:
    """A new limit needs a new line there."""
    readme = Path(__file__).parents[2] / "README.md"
    assert f"MLflow {OLDEST_VERSION} or newer" in " ".join(readme.read_text().split())
