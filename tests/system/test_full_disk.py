"""Runs on a full disk: real file systems of a few megabytes in memory."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes
from tests.system.conftest import skip_unless_ci
from trialrun.errors import StorageError

Disk = Callable[[int], Path]
QUICK: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
}  # weights of 1.5 MB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a function that mounts a small disk of a size in bytes."""
    made: list[Path] = []

    def make(size_bytes: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            skip_unless_ci("only root may mount a disk, and not everywhere")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_model_that_does_not_fit_fails_the_run(
    store: str, colors: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the disk; run and model are FAILED, and no version is registered."""
    client = mlflow.MlflowClient(store)
    small = disk(1_000_000)
    experiment = client.create_experiment("small", artifact_location=str(small))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "small")
    with pytest.raises(StorageError, match="No space left") as raised:
        trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    assert "space" in raised.value.hint
    [run] = client.search_runs([experiment])
    [model] = client.search_logged_models([experiment])
    assert (run.info.status, str(model.status)) == ("FAILED", "FAILED")
    assert run.data.tags["error"].startswith("StorageError")
    assert client.search_model_versions("name = 'colors'") == []


def test_full_folder_for_temporary_files_is_reported(
    store: str, colors: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is written there first; the error names the folder, not MLflow."""
    small = disk(1_000_000)
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    with pytest.raises(StorageError, match=f"{small}.*No space left"):
        trialrun.train(train_data=str(colors), **QUICK)
    assert [path.name for path in small.iterdir() if path.name.startswith("trialrun-")] == []


@pytest.mark.slow
def test_full_disk_under_the_database_is_reported_in_two_lines(
    store: str, colors: Path, disk: Disk
) -> None:
    """MLflow prints no traceback, and the exit code is 6."""
    source = Path(store.removeprefix("sqlite:///"))
    folder = disk(source.stat().st_size + 400_000)
    shutil.copy(source, folder)
    (folder / "filler").write_bytes(bytes(395_000))
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    ended = subprocess.run(
        [sys.executable, "-m", "trialrun", "train", f"--train-data={colors}", *settings],
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in ended.stderr.splitlines() if not line.startswith(("Run ", "Epoch "))]
    assert ended.returncode == 6, ended.stderr
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"]
    assert "disk is full" in lines[0]


def test_cache_that_does_not_fit_is_replaced_by_decoding_on_the_fly(
    store: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk for the cache costs speed, but the run finishes."""
    photos = write_classes(tmp_path / "photos", {"a": 40, "b": 40}, size=64)
    cache = disk(200_000)
    monkeypatch.setenv("TRIALRUN_CACHE", str(cache))
    result = trialrun.train(train_data=str(photos), **QUICK)
    assert result.status == "FINISHED"
    assert [path for path in cache.rglob("*.pack*") if path.is_file()] == []
