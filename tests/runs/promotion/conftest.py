"""Three versions of a model for promotions, trained once per process of the tests.

They are trained on a part of the digits: 1 and 3 for one epoch, 2 for ten. Every test uses a copy
of their store.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import trialrun
from trialrun.cache.location import cache_folder
from trialrun.cli import run_cli as command
from trialrun.images.formats.sample import write_sample

TRAIN_IMAGES, TEST_IMAGES = 24, 15  # of each digit


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because a second one is slower for small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with some of the digits in `train` and `test`."""
    source = write_sample("sample:digits", cache_folder())
    folder = tmp_path_factory.mktemp("digits")
    for label in map(str, range(10)):
        files = sorted((source / label).glob("*.png"))
        for name, chosen in (
            ("train", files[:TRAIN_IMAGES]),
            ("test", files[TRAIN_IMAGES : TRAIN_IMAGES + TEST_IMAGES]),
        ):
            (folder / name / label).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, folder / name / label)
    return folder


@pytest.fixture(scope="package")
def trained(
    digits: Path,
    initialised_store: Path,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, list[Any]]]:
    """Return a store with the three versions, and the results of their runs."""
    import mlflow

    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(initialised_store, folder / "mlflow.db")
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ.pop("MLFLOW_RUN_ID", None)
    mlflow.MlflowClient().create_experiment("tests", artifact_location=str(folder / "artifacts"))
    results = [
        trialrun.train(
            model="shufflenet_v2_x0_5",
            train_data=str(digits / "train"),
            epochs=epochs,
            batch_size=16,
            learning_rate=0.02,
            random_seed=seed,
            patience=10,
            precision="fp32",
            register_as="digits",
            experiment="tests",
        )
        for seed, epochs in ((1, 1), (2, 10), (3, 1))
    ]
    yield folder / "mlflow.db", results
    for name, text in before.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text


def copy_store(source: Path, target: Path) -> None:
    """Copy a SQLite file with what is still in its write-ahead log."""
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(target)) as copy:
        database.backup(copy)


@pytest.fixture
def registry(
    trained: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return a client of a copy of the store."""
    import mlflow

    copy_store(trained[0], tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(uri)


class Commands:
    """Runs command lines in this process and reads the JSON they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.errors = ""

    def __call__(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a command, check its exit code and return its JSON object."""
        self._capsys.readouterr()
        exit_code = command([*arguments, "--json"])
        out, self.errors = self._capsys.readouterr()
        assert exit_code == code, self.errors
        lines = out.splitlines()
        values = json.loads(lines[-1]) if lines else {}
        assert isinstance(values, dict)
        return values


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Commands:
    """Return a runner of command lines."""
    return Commands(capsys)
